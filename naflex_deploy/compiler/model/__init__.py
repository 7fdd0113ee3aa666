"""The packed reference model in PyTorch."""
