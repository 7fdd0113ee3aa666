"""Running packs on TensorRT and TensorRT-RTX."""
