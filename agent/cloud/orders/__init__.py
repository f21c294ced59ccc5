"""What people ask of AWS by hand, through the control socket. Nothing by itself."""
