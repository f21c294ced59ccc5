"""From what AWS described to the next call for a volume. Pure."""
