"""Comparisons of two engines: contenders, baselines, paired runs and their intervals."""
