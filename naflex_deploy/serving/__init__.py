"""Bundles behind HTTP, and on distributed engines that exist."""
