"""Damaged files for every reader: tiny seeds of each kind, mutations of them, and a process in which they are read."""
