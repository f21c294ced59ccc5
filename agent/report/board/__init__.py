"""The board: how every volume is, what changed, what happened. All faces read here alone."""
