"""What is answered: to anybody over HTTP, and at the control socket, which alone takes orders."""
