"""What Prometheus reads, made from the board. Asks no device."""
