"""Lowering for ONNX Runtime on a CPU."""
