"""``ebs-agent forget``: removes the note about formatting a volume, so that it may be formatted again.

Touches the note and nothing else. Needs no running agent: the agent reads its notes anew at every look, and
without it a name is looked up in the policy and in the notes.
"""

from __future__ import annotations

from agent.base.paths import Paths
from agent.cli.client import Client
from agent.core.errors import AgentError, ExitCode, InvalidValueError, RefusedError
from agent.core.model import FormatRecord, VolumeId, parse_volume_id
from agent.core.quoting import quote
from agent.core.suggestions import hint_at_known
from agent.node.kernel.mountinfo import read_mounts
from agent.node.state.volume_records import Records
from agent.policy import PolicyError
from agent.policy.entries import VolumeEntry
from agent.policy.reading import load_policy


def forget_format(paths: Paths, client: Client, name: str) -> tuple[VolumeId, str]:
    """Remove the note about the volume of this name or ID; return its ID and a sentence about what was noted.

    RefusedError where the volume is mounted: its note is about the filesystem in use.
    """
    records = Records(paths.state)
    try:
        status = client.volume_status(name)
    except AgentError as error:
        if error.exit_code not in {ExitCode.NO_ANSWER, ExitCode.USAGE}:
            raise
        # The agent is not there, or does not know the volume; its notes are.
        status = {}
        volume = _find_volume(paths, records, name, error)
    else:
        volume = parse_volume_id(status.get("volume_id") or name)
    _refuse_mounted(records, volume)
    noted = _describe(records, volume)
    records.formats.remove(volume)
    if status:
        client.reconcile(str(volume))
    return volume, noted


def _find_volume(paths: Paths, records: Records, name: str, no_answer: AgentError) -> VolumeId:
    """Return the volume that policy and notes know by this name, without an agent to ask, or raise."""
    if name.startswith("vol-"):
        return parse_volume_id(name)
    if no_answer.exit_code is ExitCode.USAGE:
        raise no_answer  # it names the volumes there are
    entry = next((entry for entry in _read_entries(paths) if entry.name == name), None)
    if entry is not None and entry.volume_id is not None:
        return entry.volume_id
    path = name if name.startswith("/") else entry.mount.path if entry is not None and entry.mount else None
    at_path = [
        volume for volume in records.mounts.list_volumes() if path and _read_path(records, volume) == path
    ]
    if len(at_path) == 1:
        return at_path[0]
    noted = records.formats.list_volumes()
    known = hint_at_known(name, noted, "Volumes with a note about formatting:")
    raise InvalidValueError(
        f"Which volume is called {quote(name)} is not known while no agent runs.",
        hint=f"Give its ID. {known}",
    )


def _read_entries(paths: Paths) -> tuple[VolumeEntry, ...]:
    try:
        return load_policy(
            paths.policy, trust_owner=True
        ).volumes  # it names a volume here and decides nothing
    except PolicyError:
        return ()


def _read_path(records: Records, volume: VolumeId) -> str | None:
    try:
        mounted = records.mounts.read(volume)
    except RefusedError:
        return None
    return mounted.path if mounted is not None else None


def _refuse_mounted(records: Records, volume: VolumeId) -> None:
    mounted = records.mounts.read(volume)
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
        record: FormatRecord | None = records.formats.read(volume)
    except RefusedError as error:
        return f"{volume}: a note that could not be trusted is forgotten. {error.message}"
    if record is None:
        return f"{volume}: there is no note about formatting it."
    return (
        f"{volume}: forgotten that it was formatted as {record.type} ({record.stage.value}, filesystem"
        f" {record.uuid}, {record.recorded_at}). It is formatted again where it is proven blank and the"
        " policy allows it."
    )
