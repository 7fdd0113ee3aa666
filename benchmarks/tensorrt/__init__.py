"""What TensorRT-RTX builds, and what a build takes."""
