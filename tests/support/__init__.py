"""Helpers that several tests share: seeded weights, packs of random images, and the original classes as references."""
