"""Volumes on their way to the cluster's nodes, and off them."""
