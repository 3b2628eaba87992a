"""To and from elsewhere: exports, the Hugging Face Hub, downloads, weights of junyanz's port."""
