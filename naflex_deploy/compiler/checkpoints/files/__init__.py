"""Files of a checkpoint: which of them make the model, reading them, and fetching them from the hub."""
