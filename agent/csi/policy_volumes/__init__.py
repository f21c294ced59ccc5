"""The policy's own volumes, published to pods: by the names of their entries, and on each node its own."""
