"""The demo model: a tiny document classifier, the generator that drew its pages, and how it was trained."""
