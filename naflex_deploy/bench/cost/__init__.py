"""The cost of packs: time by stage, a cost model, and the budgets that it suggests."""
