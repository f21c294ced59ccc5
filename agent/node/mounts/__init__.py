"""Which mounts are a volume's, wherever they show, who is in them, and taking them apart."""
