"""Requests to packs, for servers."""
