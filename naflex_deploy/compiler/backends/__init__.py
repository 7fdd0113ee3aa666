"""Lowering rewrites the portable graph for one target. Each backend has a folder with a ``lowering.py``."""
