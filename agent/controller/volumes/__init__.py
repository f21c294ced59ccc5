"""What the controller does with the volumes of a cluster."""
