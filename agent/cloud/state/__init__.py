"""What the cloud half remembers. Losing it costs time and calls, never truth."""
