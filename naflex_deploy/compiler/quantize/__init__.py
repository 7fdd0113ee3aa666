"""Quantisation: what activations were observed to be, and what integers make of them."""
