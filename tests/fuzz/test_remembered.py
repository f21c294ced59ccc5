"""What the agent wrote down itself, and somebody may have changed since: notes and the event history."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from hypothesis import strategies as st

from agent.core.errors import AgentError
from agent.core.model import FormatRecord, MountRecord, RawRecord, VolumeId
from agent.node.state.record_files import _checksum
from agent.node.state.volume_records import Records
from agent.report.api import show_event
from agent.report.history import load_history
from tests.fuzz.conftest import Fuzz
from tests.fuzz.mutation import mutate_bytes, mutate_json
from tests.fuzz.samples import EVENTS, FORMAT_NOTE, MOUNT_NOTE, RAW_NOTE, VOLUME

MACHINE = "0123456789abcdef0123456789abcdef"


def _wrap(kind: str, fields: Any) -> dict[str, Any]:
    """Put fields into an envelope that is sound, so that they are what is looked at."""
    checksum = _checksum(kind, MACHINE, fields)
    return {"version": 1, "kind": kind, "machine_id": MACHINE, "record": fields, "checksum": checksum}


def _encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def _make_notes(kind: str, fields: dict[str, Any]) -> st.SearchStrategy[bytes]:
    note = _wrap(kind, fields)
    return st.one_of(
        mutate_json([fields]).map(lambda changed: _encode(_wrap(kind, changed))),
        mutate_json([note]).map(_encode),
        mutate_bytes([_encode(note)]),
    )


def _make_check(
    tmp_path: Path, folder: str, read: Callable[[Records], FormatRecord | MountRecord | RawRecord | None]
) -> Callable[[bytes], None]:
    records = Records(tmp_path, MACHINE)
    note = tmp_path / folder / f"{VOLUME}.json"
    note.parent.mkdir(mode=0o700)
    note.touch(mode=0o600)

    def check(content: bytes) -> None:
        note.write_bytes(content)
        record = read(records)
        assert record is not None
        assert record.volume_id == VOLUME

    return check


def test_format_notes(fuzz: Fuzz, tmp_path: Path) -> None:
    """A note about formatting is the record it was, or refused by name."""
    check = _make_check(tmp_path, "formats", lambda records: records.formats.read(VolumeId(VOLUME)))
    fuzz(check, _make_notes("format", FORMAT_NOTE))


def test_mount_notes(fuzz: Fuzz, tmp_path: Path) -> None:
    """A note about a mount is the record it was, or refused by name."""
    check = _make_check(tmp_path, "mounts", lambda records: records.mounts.read(VolumeId(VOLUME)))
    fuzz(check, _make_notes("mount", MOUNT_NOTE))


def test_raw_notes(fuzz: Fuzz, tmp_path: Path) -> None:
    """A note that a volume was handed out raw is the record it was, or refused by name."""
    check = _make_check(tmp_path, "raw", lambda records: records.raws.read(VolumeId(VOLUME)))
    fuzz(check, _make_notes("raw", RAW_NOTE))


def test_notes_of_samples_are_sound(tmp_path: Path) -> None:
    """The notes that inputs are made from are right ones: what is refused is refused for its change."""
    kinds = (("formats", "format", FORMAT_NOTE), ("mounts", "mount", MOUNT_NOTE), ("raw", "raw", RAW_NOTE))
    for folder, kind, fields in kinds:
        place = tmp_path / folder
        place.mkdir(mode=0o700)
        (place / f"{VOLUME}.json").write_bytes(_encode(_wrap(kind, fields)))
        (place / f"{VOLUME}.json").chmod(0o600)
    records = Records(tmp_path, MACHINE)
    try:
        assert records.formats.read(VolumeId(VOLUME)) is not None
        assert records.mounts.read(VolumeId(VOLUME)) is not None
        assert records.raws.read(VolumeId(VOLUME)) is not None
    except AgentError as error:
        raise AssertionError(error.message) from error


def test_history(fuzz: Fuzz, tmp_path: Path) -> None:
    """Lines of the history are events or are left out, and the events can be told again."""
    path = tmp_path / "events.jsonl"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        for event in anyio.run(load_history, path).latest():
            json.dumps(show_event(event), default=str)

    lines = mutate_json(EVENTS).map(_encode)
    whole = b"\n".join(map(_encode, EVENTS))
    fuzz(check, st.one_of(mutate_bytes([whole]), st.lists(lines, max_size=4).map(b"\n".join)))
