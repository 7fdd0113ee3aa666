"""From images to packs to results: all that a machine needs to run bundles."""
