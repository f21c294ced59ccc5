"""What is known of the cloud at one look, and what of it is told to the node. Decides nothing."""
