"""Publishing to a broker, where the policy names one. Listens to nobody."""
