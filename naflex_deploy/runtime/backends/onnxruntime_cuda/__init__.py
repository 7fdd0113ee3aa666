"""Run packs on ONNX Runtime on an NVIDIA GPU."""
