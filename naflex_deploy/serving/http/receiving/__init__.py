"""Receive requests: connections, room for bodies, and JSON within bounds."""
