"""Arguments that are volumes, completed in the shell by what the running agent knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from agent.base.paths import Paths
from agent.cli.client import Client
from agent.core.errors import AgentError


def complete_volume(incomplete: str) -> list[str]:
    """Return the names and IDs that begin with ``incomplete``; none where the agent does not answer."""
    root = Path(os.environ.get("EBS_AGENT_ROOT", "/"))
    client = Client(Path(os.environ.get("EBS_AGENT_SOCKET") or Paths(root).socket))
    try:
        volumes = client.status()["volumes"]
    except AgentError:
        return []
    words = [word for volume in volumes for word in (volume["name"], volume["volume_id"]) if word]
    return [word for word in words if word.startswith(incomplete)]


def find_device(text: str | None) -> str | None:
    """Return what a link below /dev leads to, since that is what the agent calls a device; else the text."""
    return os.path.realpath(text) if text is not None and text.startswith("/dev/") else text


VolumeArgument = Annotated[
    str,
    typer.Argument(
        help="A volume's name or ID, its device or its path.",
        autocompletion=complete_volume,
        callback=find_device,
    ),
]
OptionalVolume = Annotated[
    str | None,
    typer.Argument(
        help="A volume's name or ID, its device or its path; all when not given.",
        autocompletion=complete_volume,
        callback=find_device,
    ),
]
