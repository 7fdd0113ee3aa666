"""Compares this engine, in turns, with the alternatives that people use."""
