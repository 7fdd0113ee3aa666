"""Images to packs to results: everything a machine that only runs bundles needs."""
