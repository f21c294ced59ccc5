"""Makes the container image, from Debian's packages and the locked wheels, with no image to start from."""
