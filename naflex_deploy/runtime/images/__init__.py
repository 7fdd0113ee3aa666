"""Image files to patches: reading, fitting to a grid, tiling, patchifying."""
