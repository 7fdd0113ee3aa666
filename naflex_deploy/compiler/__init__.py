"""Turns a checkpoint into a bundle: read, export, fuse, lower, verify. Needs the ``build`` extra."""
