"""Benchmarks of the host's work around the engine: decoding, packing, start-up, installation."""
