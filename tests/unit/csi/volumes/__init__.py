"""Tests of what the agent does for kubelet."""
