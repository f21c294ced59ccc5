"""One module for each interface of the kernel, and libblkid's. Reads and calls; decides nothing."""
