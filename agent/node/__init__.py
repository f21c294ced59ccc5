"""What touches the kernel of the machine the agent runs on. Nothing here knows the policy."""

from __future__ import annotations
