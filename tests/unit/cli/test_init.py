from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from agent.cli.client import Client, NoAnswerError
from agent.cli.init import read_claim, write_first_policy
from agent.core.errors import AgentError, ExitCode, InvalidValueError
from agent.core.model import FsType, VolumeId
from agent.policy.reading import read_policy

BLANK = {
    "volume_id": "vol-0123456789abcdef0",
    "condition": "Unmanaged",
    "device": "/dev/nvme1n1",
    "size_bytes": 500 << 30,
    "fstype": None,
}
FULL = {**BLANK, "volume_id": "vol-0123456789abcdef1", "device": "/dev/nvme2n1", "fstype": "xfs"}


class Node(Client):
    """An agent with these volumes; without any, none answers."""

    def __init__(self, *volumes: dict[str, Any]) -> None:
        super().__init__(Path("/none"))
        self.volumes = volumes

    @override
    def status(self) -> dict[str, Any]:
        if not self.volumes:
            raise NoAnswerError("No agent answers.", exit_code=ExitCode.NO_ANSWER)
        return {"volumes": list(self.volumes)}


def init(path: Path, *volumes: dict[str, Any], claims: tuple[str, ...] = ()) -> list[str]:
    text, steps = write_first_policy(Node(*volumes), path, claims, takes_defaults=True, is_printed=False)
    assert path.read_text() == text
    return steps


def test_first_policy_is_valid_and_formats_nothing_that_holds_data(tmp_path: Path) -> None:
    """What is attached and what is wanted: a blank volume may be formatted, any other never is."""
    path = tmp_path / "etc/policy.yaml"
    told = init(path, BLANK, FULL, {**BLANK, "condition": "Ready"}, claims=("scratch:100GiB:/data/scratch",))
    policy, problems = read_policy(path.read_bytes())
    assert problems == []
    assert policy is not None
    claimed, blank, full = policy.volumes
    assert claimed.claim is not None
    # Else the other nodes, which have the same policy, would wait for this node's volumes.
    assert not any(entry.required for entry in policy.volumes)
    assert blank.match is not None
    assert blank.match.volume_id == VolumeId(str(BLANK["volume_id"]))
    assert blank.filesystem is not None
    assert full.filesystem is not None
    assert (blank.filesystem.format.value, full.filesystem.format.value) == ("if-blank", "never")
    assert full.filesystem.type is FsType.XFS
    assert any("iam-policy" in line for line in told)
    assert any("ebs-agent reload" in line for line in told)
    assert [entry.name for entry in tmp_path.joinpath("etc").iterdir()] == ["policy.yaml"]


def test_policy_that_says_something_is_never_overwritten(tmp_path: Path) -> None:
    """Neither one with volumes, or with settings alone, nor one that nobody can read.

    One as installed is taken the place of.
    """
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nvolumes: []\n")
    init(path, BLANK)
    text = path.read_text()
    settings = (
        "csi: {enabled: true}",
        "cloud: {cluster: training}",
        "allowed_roots: [/scratch]",
        "resync: 5m",
    )
    for content in (
        text,
        "volumes: [",
        "version: 1\nclasses: {fast: {type: gp3}}\nvolumes: []\n",
        *(
            f"version: 1\nagent: {{{setting}}}\n{volumes}"
            for setting in settings
            for volumes in ("", "volumes: []\n")
        ),
    ):
        path.write_text(content)
        with pytest.raises(AgentError, match="is not overwritten"):
            init(path, BLANK)
        assert path.read_text() == content


def test_without_an_agent_what_is_wanted_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is attached is then not known, which is said; with nothing at all the policy touches nothing."""
    path = tmp_path / "policy.yaml"
    told = init(path)
    assert "is not known" in capsys.readouterr().err
    policy, _ = read_policy(path.read_bytes())
    assert policy is not None
    assert policy.volumes == ()
    assert told[-1].endswith("systemctl start ebs-agent")
    init(path, claims=("a:1GiB:/data/a", "b:2TiB:/data/b"))
    policy, _ = read_policy(path.read_bytes())
    assert policy is not None
    assert [entry.name for entry in policy.volumes] == ["a", "b"]


def test_what_is_no_filesystem_of_ours_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A swap area or LVM's is nobody's to mount."""
    path = tmp_path / "policy.yaml"
    init(path, {**BLANK, "fstype": "LVM2_member"})
    assert "is left alone" in capsys.readouterr().err
    assert "volumes: []" in path.read_text()


@pytest.mark.parametrize("text", ["a", "a:1GiB", "a:1GiB:data", "A b:1GiB:/x", "a:much:/x", ":1GiB:/x"])
def test_wrong_claims_are_refused(text: str) -> None:
    """With how one is written."""
    with pytest.raises(InvalidValueError):
        read_claim(text)


def test_what_makes_no_policy_is_not_written(tmp_path: Path) -> None:
    """Two entries of one name, or a path that no policy may have."""
    path = tmp_path / "policy.yaml"
    for claims in (("a:1GiB:/data/a", "a:1GiB:/data/b"), ("a:1GiB:/etc/x",)):
        with pytest.raises(InvalidValueError, match="That is no policy"):
            init(path, claims=claims)
    assert not path.exists()
