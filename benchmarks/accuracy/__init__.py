"""Accuracy on the demo checkpoint, and the table of checkpoints."""
