"""What the controller does for the cluster beside its claims, by Kubernetes' API, one replica at a time."""
