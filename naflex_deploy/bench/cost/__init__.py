"""What a pack costs: time by stage, a cost model, and the budgets it suggests."""
