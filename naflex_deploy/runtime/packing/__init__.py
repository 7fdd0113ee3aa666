"""From patches to packs, and from packs to results."""
