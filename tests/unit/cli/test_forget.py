"""``ebs-agent forget`` where no agent runs: names are looked up in the policy and in the notes."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.base.paths import Paths
from agent.cli.client import Client
from agent.cli.forget import forget_format
from agent.core.errors import AgentError, ExitCode
from agent.core.model import DeviceNumber, FormatRecord, FormatStage, FsType, MountRecord, VolumeId
from agent.node.state.volume_records import Records

BY_ID = VolumeId("vol-0123456789abcdef0")
BY_PATH = VolumeId("vol-0123456789abcdef1")
POLICY = f"""version: 1
classes: {{fast: {{type: gp3}}}}
volumes:
  - name: ckpt
    match: {{volume_id: {BY_ID}}}
    filesystem: {{type: ext4, format: if-blank}}
    mount: {{path: /data/ckpt}}
  - name: scratch
    claim: {{class: fast, size: 1GiB}}
    filesystem: {{type: ext4, format: if-blank}}
    mount: {{path: /data/scratch}}
  - name: raw
    match: {{tags: {{role: raw}}}}
    block: {{}}
"""


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A node that was once at work, with notes about two volumes, one of them mounted then."""
    paths = Paths(tmp_path)
    paths.policy.parent.mkdir(parents=True)
    paths.policy.write_text(POLICY)
    records = Records(paths.state)
    for volume in (BY_ID, BY_PATH):
        records.formats.write(FormatRecord(volume, "u", FsType.EXT4, 1, FormatStage.DONE, "2026"))
    records.mounts.write(MountRecord(BY_PATH, "/data/scratch", DeviceNumber(1, 2), "another boot", None, ()))
    return paths


@pytest.mark.parametrize(
    ("name", "volume"),
    [(BY_ID, BY_ID), ("ckpt", BY_ID), ("scratch", BY_PATH), ("/data/scratch", BY_PATH)],
)
def test_a_name_is_looked_up(paths: Paths, name: str, volume: VolumeId) -> None:
    """The entry that names a volume, or the note of one mounted at the entry's path, says which is meant."""
    assert forget_format(paths, Client(paths.socket), name)[0] == volume
    assert Records(paths.state).formats.read(volume) is None
    assert len(Records(paths.state).formats.list_volumes()) == 1


@pytest.mark.parametrize("name", ["raw", "nosuch", "vol-1", "", "/data/nothing"])
def test_what_is_not_known_is_wrong_usage(paths: Paths, name: str) -> None:
    """A name that could be any volume's forgets nothing; what has notes is named."""
    with pytest.raises(AgentError) as raised:
        forget_format(paths, Client(paths.socket), name)
    assert raised.value.exit_code is ExitCode.USAGE
    assert name.startswith("vol-") or f"{BY_ID}, {BY_PATH}" in str(raised.value.hint)
    assert len(Records(paths.state).formats.list_volumes()) == 2


def test_a_policy_with_problems_names_nothing(paths: Paths) -> None:
    """With a policy that cannot be read the ID still does."""
    paths.policy.write_text("nonsense: [")
    with pytest.raises(AgentError, match="is not known while no agent runs"):
        forget_format(paths, Client(paths.socket), "ckpt")
    assert forget_format(paths, Client(paths.socket), BY_ID)[0] == BY_ID
