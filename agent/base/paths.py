"""Where the agent keeps and finds its own files; all of them move together with the root.

Volumes' mount paths are not among them: those are the policy's, and lie beneath its ``allowed_roots``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

ROOT_VARIABLE = "EBS_AGENT_ROOT"


def choose_looking_path(socket: Path) -> Path:
    """Return where those who may only look find the agent whose control socket is ``socket``."""
    return socket.with_name("look.sock")


class Paths(Struct, frozen=True):
    """The agent's own paths below ``root``, which is ``/`` on a node and a scratch directory elsewhere."""

    root: Path = Path("/")

    @classmethod
    def choose(cls, root: str | Path | None = None, environment: Mapping[str, str] = os.environ) -> Paths:
        """Take ``root`` as given (``--root DIR``), else from ``EBS_AGENT_ROOT``, else the real ``/``."""
        return cls(Path(root or environment.get(ROOT_VARIABLE) or "/").absolute())

    @property
    def is_real(self) -> bool:
        """The node's own paths, not a scratch directory's."""
        return self.root == Path("/")

    @property
    def policy(self) -> Path:
        return self.root / "etc/ebs-agent/policy.yaml"

    @property
    def hooks(self) -> Path:
        return self.root / "etc/ebs-agent/hooks.d"

    @property
    def state(self) -> Path:
        """Durable: records of formats and mounts."""
        return self.root / "var/lib/ebs-agent"

    @property
    def runtime(self) -> Path:
        """Gone after a reboot."""
        return self.root / "run/ebs-agent"

    @property
    def socket(self) -> Path:
        return self.runtime / "agent.sock"

    @property
    def dev_ebs(self) -> Path:
        """Stable links to volumes: ``by-id/vol-…`` and policy names."""
        return self.root / "dev/ebs"
