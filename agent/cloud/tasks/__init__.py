"""What the cloud half keeps true: volumes here, their shape, snapshots, leaving."""
