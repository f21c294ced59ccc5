"""From samples to verdicts: what is wrong with a volume that is in use. Asks no device."""
