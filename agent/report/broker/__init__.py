"""Publishing over MQTT in a process of its own: what it is, and how the daemon starts, tells and ends it."""
