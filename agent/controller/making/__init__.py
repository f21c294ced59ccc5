"""How volumes are made for claims, each once under its name."""
