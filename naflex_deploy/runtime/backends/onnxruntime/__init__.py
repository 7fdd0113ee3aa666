"""Run packs on ONNX Runtime on a CPU."""
