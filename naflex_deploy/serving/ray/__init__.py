"""Adapters for Ray Data and Ray Serve."""
