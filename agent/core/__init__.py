"""Values and decisions: what a volume is, what is wanted of it, what to do next. No I/O, no clock."""
