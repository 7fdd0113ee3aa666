"""Accuracy of the demo checkpoint, and the table of checkpoints."""
