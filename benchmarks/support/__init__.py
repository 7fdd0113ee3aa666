"""Code that the benchmarks share: interleaved timing, and the versions of what is installed."""
