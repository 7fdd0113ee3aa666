"""Run packs on TensorRT and TensorRT-RTX."""
