"""Sockets, connections and requests, whoever asks and whatever they send. Not what is answered."""
