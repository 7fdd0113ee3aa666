"""Running packs on ONNX Runtime on a CPU."""
