"""The read-only face as a process of its own: what it is, and how the daemon starts, feeds and ends it."""
