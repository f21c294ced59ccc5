"""What this node's instance type can do with EBS volumes: asked once, and held against what is wanted."""
