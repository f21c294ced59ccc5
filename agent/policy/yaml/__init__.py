"""From a file's bytes to values with their places, and mistakes told at theirs. No meaning yet."""
