"""Kernels in the Triton language."""
