"""Patches to packs, and packs to results."""
