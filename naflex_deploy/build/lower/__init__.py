"""Lowering: the portable graph rewritten for one target. One module a backend, found by name in `registry`."""
