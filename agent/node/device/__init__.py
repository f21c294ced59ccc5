"""Which disk a device is, whose, and how it is shown to users. Not what is on it."""
