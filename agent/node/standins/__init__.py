"""Files that stand in for volumes: for the demo and tests, never for production."""
