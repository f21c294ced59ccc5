"""The program that makes a cluster's claims into volumes; no node's devices, and no policy."""
