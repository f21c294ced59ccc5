"""The daemon: what is made and started, in which order, and what follows for all from what one part says.

Composition only: what is to be done with a volume is decided below.
"""

from __future__ import annotations

from agent.daemon.start import run

__all__ = ["run"]
