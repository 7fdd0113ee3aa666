"""Benchmarks of built engines: mixes of image sizes, load, intervals, comparisons, a cost model, reports."""
