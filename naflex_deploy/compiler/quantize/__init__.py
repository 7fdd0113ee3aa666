"""Quantisation: observes activations on real images, and turns layers into 8-bit ones."""
