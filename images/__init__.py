"""Images and arrays: files, pairs of them, pixels, tiles, grids and the gallery."""
