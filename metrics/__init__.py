"""Scores of translations: of one image, of label maps, of a split, and between sets of images."""
