"""Measuring built engines: mixes of sizes, load, intervals, comparisons, a cost model, reports."""
