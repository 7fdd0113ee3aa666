"""Measures what TensorRT-RTX can build, and the time and memory of a build."""
