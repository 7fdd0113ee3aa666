"""Benchmarks of the HTTP server and its scheduler under load and faults."""
