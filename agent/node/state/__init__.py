"""What is kept on the node's own disk, synced before the deed. Not what it means."""
