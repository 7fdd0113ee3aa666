"""The demo model: a tiny document classifier, the generator of its pages, and its training."""
