"""Kubernetes' API as the controller reads and changes it, and which replica may."""
