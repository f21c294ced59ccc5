"""Tests of the Kubernetes face."""
