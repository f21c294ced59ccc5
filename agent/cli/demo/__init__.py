"""``ebs-agent demo``: the agent at work on files that stand in for volumes, told as five short scenes.

It runs the agent as a node does, with real mkfs and real mounts, below one scratch directory; checks what it
claims; and takes everything away again, whatever happens.
"""

from __future__ import annotations

from agent.cli.demo.run_demo import run_demo

__all__ = ["run_demo"]
