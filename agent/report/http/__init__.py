"""HTTP itself, by h11: requests whole, answers bounded, at whatever socket. Not what is asked or answered."""
