"""What is on a device: proven blank, recognised, foreign, or a format's remains. Only reads."""
