"""Who this node is to AWS, and from which source that is known. Nothing about volumes."""
