"""Lowering for ONNX Runtime on an NVIDIA GPU."""
