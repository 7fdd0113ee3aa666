"""Lowering for TensorRT and TensorRT-RTX, and the build of their engines."""
