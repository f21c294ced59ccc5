"""What the agent tells people and machines: board, events, logs, metrics, HTTP. Never acts on a volume."""

from __future__ import annotations
