"""The text tower of the demo model, its training and its measure."""
