"""Bundles on disk: open, check, verify, strip and sign them."""
