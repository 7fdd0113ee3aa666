"""Lowering for TensorRT and TensorRT-RTX, including the build of their engines."""
