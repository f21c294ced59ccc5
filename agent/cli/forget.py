"""``ebs-agent forget``: removes the note about formatting a volume, so that it may be formatted again.

Touches the note and nothing else. Needs no running agent: the agent reads its notes anew at every look.
"""

from __future__ import annotations

from typing import Any

from agent.cli.client import Client
from agent.errors import AgentError, ExitCode, RefusedError
from agent.model import FormatRecord, VolumeId, parse_volume_id
from agent.node.mountinfo import read_mounts
from agent.node.records import Records
from agent.paths import Paths


def forget_format(paths: Paths, client: Client, name: str) -> tuple[VolumeId, str]:
    """Remove the note about the volume of this name or ID; return its ID and a sentence about what was noted.

    RefusedError where the volume is mounted: its note is about the filesystem in use.
    """
    status = _ask(client, name)
    volume = parse_volume_id(status.get("volume_id") or name)
    records = Records(paths.state)
    _refuse_mounted(records, volume)
    noted = _describe(records, volume)
    records.remove_format(volume)
    if status:
        client.reconcile(str(volume))
    return volume, noted


def _ask(client: Client, name: str) -> dict[str, Any]:
    try:
        return client.volume_status(name)
    except AgentError as error:
        if error.exit_code in {ExitCode.NO_ANSWER, ExitCode.USAGE}:
            return {}
        raise


def _refuse_mounted(records: Records, volume: VolumeId) -> None:
    mounted = records.read_mount(volume)
    places = {(mount.path, mount.device_number) for mount in read_mounts()}
    if mounted is not None and (mounted.path, mounted.device_number) in places:
        raise RefusedError(
            f"{volume} is mounted at {mounted.path}.",
            hint="What the agent noted of it is about the filesystem in use; unmount it first.",
            retryable=False,
            exit_code=ExitCode.REFUSED,
        )


def _describe(records: Records, volume: VolumeId) -> str:
    try:
        record: FormatRecord | None = records.read_format(volume)
    except RefusedError as error:
        return f"{volume}: a note that could not be trusted is forgotten. {error.message}"
    if record is None:
        return f"{volume}: there is no note about formatting it."
    return (
        f"{volume}: forgotten that it was formatted as {record.type} ({record.stage.value}, filesystem"
        f" {record.uuid}, {record.recorded_at}). It is formatted again where it is proven blank and the"
        " policy allows it."
    )
