"""Compares and times every GPU path on the card at hand."""
