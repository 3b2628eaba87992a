"""What any training run needs. Nothing in this folder knows of Pix2Pix."""
