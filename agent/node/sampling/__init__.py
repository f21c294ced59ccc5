"""One sample of how a volume is. What it means is judged in ``agent.report.health``."""
