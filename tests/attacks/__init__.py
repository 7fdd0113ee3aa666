"""A short, seeded sample of the attacks of `benchmarks.attack`."""
