"""Attacks on the server, on readers and on bundles, with harmless input, for as long as wanted."""
