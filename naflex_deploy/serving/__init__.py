"""Serve bundles over HTTP, on Ray and on NVIDIA Triton Server."""
