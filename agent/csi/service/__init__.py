"""Answers kubelet: reads and checks what it asks, and says how it went. Of volumes it knows nothing."""
