"""What the controller does with snapshots of a cluster's volumes."""
