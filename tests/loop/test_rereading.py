"""What a volume costs that nobody may format: its signatures are looked for, and it is read no further."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.core.model import FormatRecord, FormatStage, FsType, OriginRecord, VolumeId
from agent.node.kernel.disk_counters import read_block_counters
from agent.node.kernel.mountinfo import find_node_number
from agent.node.state.volume_records import Records
from tests.agent_process import AgentProcess, Scratch
from tests.loop.devices import locked
from tests.waiting import wait_until

VOLUME = VolumeId("vol-0123456789abcdef0")
MIB = 1 << 20
SIZE_BYTES = 512 * MIB
LOOKS = 5
LOOK_BYTES = 4 * MIB
"""More than libblkid reads of head and tail, and less than a hundredth of the volume."""


def count_read_bytes(device: str) -> int:
    number = find_node_number(device)
    counters = None if number is None else read_block_counters(number)
    assert counters is not None
    return counters.read_bytes


def look(agent: AgentProcess, times: int) -> None:
    """Have every volume looked at so many times more, one look after the other."""
    for _ in range(times):
        agent.client.plan()


def note(scratch: Scratch, write: Callable[[Records], None]) -> None:
    write(Records(scratch.paths.state))


def note_copy(scratch: Scratch) -> None:
    record = OriginRecord(VOLUME, source_volume_id="vol-00000000000000000")
    note(scratch, lambda records: records.origins.write(record))


def note_format(scratch: Scratch) -> None:
    uuid = "6f1c1f0e-5a0b-4d0a-9c43-0d6c1d7a2b11"
    record = FormatRecord(VOLUME, uuid, FsType.EXT4, SIZE_BYTES, FormatStage.DONE, "2026-01-01T00:00:00Z")
    note(scratch, lambda records: records.formats.write(record))


def write_data(image: Path) -> None:
    """Leave data without a signature near the end of a volume, where a proof comes last."""
    os.truncate(image, SIZE_BYTES)
    with image.open("r+b") as file:
        file.seek(SIZE_BYTES - 64 * MIB)
        file.write(b"x" * 4096)


@pytest.mark.parametrize(
    ("rule", "prepare", "cloud", "reason"),
    [
        ("never", lambda _: None, {"enabled": False}, "FormatNotAllowed"),
        ("if-blank", note_copy, {"enabled": False}, "FromSnapshot"),
        ("if-blank", note_format, {"enabled": False}, "AlreadyFormatted"),
        (
            "if-blank",
            lambda _: None,
            {"enabled": True, "format_without_origin_after": "never"},
            "WaitingForCloud",
        ),
    ],
    ids=["never", "copy", "formatted before", "waiting"],
)
def test_volume_that_may_not_be_formatted_is_not_read_for_a_proof(
    scratch: Scratch,
    agent: AgentProcess,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
    prepare: Callable[[Scratch], None],
    cloud: dict[str, Any],
    reason: str,
) -> None:
    """At none of the looks at it, and without the lock that others may have."""
    monkeypatch.setenv("EBS_AGENT_CLOUD_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "us-west-2")
    # Else it is soon known that nothing can be asked, which is another reason.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    prepare(scratch)
    write_policy(scratch, rule, cloud)
    scratch.add_volume(VOLUME, SIZE_BYTES)
    agent.start()
    condition = "Pending" if reason == "WaitingForCloud" else "Refused"
    device = agent.wait_condition(VOLUME, condition, reason)["device"]
    before = count_read_bytes(device)
    with locked(device):
        agent.client.reconcile(None)
        look(agent, LOOKS)
        assert agent.status(VOLUME)["reason"] == reason
    assert count_read_bytes(device) - before < (LOOKS + 5) * LOOK_BYTES


def test_data_without_a_signature_is_found_again_where_it_was(scratch: Scratch, agent: AgentProcess) -> None:
    """Once found, one read tells that it is there still; once it is gone, all is proven anew."""
    write_policy(scratch, "if-blank", {"enabled": False})
    image = scratch.put_volume(VOLUME, write_data)
    agent.start()
    device = agent.wait_condition(VOLUME, "Refused", "NotBlank")["device"]
    before = count_read_bytes(device)
    with locked(device):
        agent.client.reconcile(None)
        look(agent, LOOKS)
        assert agent.status(VOLUME)["reason"] == "NotBlank"
    assert count_read_bytes(device) - before < (LOOKS + 5) * LOOK_BYTES
    with image.open("r+b") as file:
        file.seek(SIZE_BYTES - 64 * MIB)
        file.write(bytes(4096))
    agent.client.reconcile(None)
    agent.wait_condition(VOLUME, "Ready")
    wait_until(lambda: agent.read_events("volume.formatted"), "it was formatted")


def write_policy(scratch: Scratch, rule: str, cloud: dict[str, Any]) -> None:
    entry = {
        "name": "data",
        "match": {"volume_id": VOLUME},
        "filesystem": {"type": "ext4", "format": rule},
        "mount": {"path": str(scratch.data / "data")},
    }
    scratch.write_policy(entry, cloud=cloud, resync="1h")
