"""Two engines against each other: contenders, baselines, paired runs and their intervals."""
