"""What AWS says, asked by many and described in one call."""
