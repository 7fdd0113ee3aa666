"""Engines in the shape of other libraries: thin classes, each of which needs its library only when it is imported."""
