"""Generators from elsewhere: exports, the Hugging Face Hub, weights of junyanz's port."""
