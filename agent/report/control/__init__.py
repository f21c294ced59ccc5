"""The control socket's server: HTTP/1.1 by h11 on a Unix socket. Not what is answered."""
