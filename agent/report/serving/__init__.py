"""Sockets and connections, whoever connects and however many do. Not what is asked or answered."""
