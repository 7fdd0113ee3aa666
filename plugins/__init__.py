"""TensorRT plugins: kernels in the Triton language, compiled ahead of time."""
