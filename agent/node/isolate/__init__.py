"""Running what may hang somewhere else: workers and programs. Knows of no volume."""
