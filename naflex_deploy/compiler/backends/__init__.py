"""Lowering: the portable graph rewritten for one target. One folder a backend, each with a ``lowering.py``."""
