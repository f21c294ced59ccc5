"""Policies and volumes that the tests of the policy share."""

from __future__ import annotations

from agent.core.model import Identity, Seen, VolumeId
from agent.policy import Policy
from agent.policy.reading import check_policy, read_policy

VOL_A = VolumeId("vol-0000000000000000a")
VOL_B = VolumeId("vol-0000000000000000b")
VOL_C = VolumeId("vol-0000000000000000c")
VOL_D = VolumeId("vol-0000000000000000d")
GIB = 1 << 30


def make_policy(text: str) -> Policy:
    """Return the policy in ``text``, which must be valid."""
    policy, problems = read_policy(f"version: 1\n{text}")
    assert policy is not None, [problem.describe() for problem in problems]
    return policy


def make_entry(name: str, match: str, *, path: str | None = None, more: str = "") -> str:
    """Return an entry, as an item of ``volumes``."""
    return (
        f"  - name: {name}\n    match: {match}\n    filesystem: {{type: ext4}}\n"
        f"    mount: {{path: {path or f'/data/{name}'!r}}}\n{more}"
    )


def make_volumes(*entries: str) -> Policy:
    """Return the policy with these entries."""
    return make_policy("volumes:\n" + "".join(entries))


def make_identity(volume_id: VolumeId, attach_name: str | None = None) -> Identity:
    """Return what a device that is this volume says it is."""
    return Identity(volume_id, "Amazon Elastic Block Store", volume_id.replace("-", ""), attach_name)


def make_seen(volume_id: VolumeId, size_gib: int = 100, attach_name: str | None = None) -> Seen:
    """Return what a device answers that is this volume."""
    return Seen("/dev/nvme1n1", make_identity(volume_id, attach_name), size_gib * GIB)


def find_messages(text: str) -> list[str]:
    """Return the problems of a policy as ``line:column where: message``."""
    return [f"{p.line}:{p.column} {p.where}: {p.message}" for p in check_policy(text)]
