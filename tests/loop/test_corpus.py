"""No content of the corpus is ever overwritten by an agent that is allowed to format blank volumes.

The cases are put before one real agent in batches of many volumes. ``EBS_AGENT_IMAGES=DIR`` adds the images
in a directory of one's own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.core.model import Blank
from agent.node.content.recognize import probe
from tests.agent_process import AgentProcess, Scratch
from tests.corpus import CASES, Case, find_missing
from tests.corpus.case import GIB
from tests.corpus.images import list_images, unpack
from tests.corpus.tools import digest, run
from tests.loop.devices import attached, opened
from tests.summary import SUMMARY
from tests.waiting import wait_until

BATCH = 24
MIN_CASES = 80
IMAGES = list_images()
AVAILABLE = [case for case in CASES.values() if not find_missing(case.needs)]
BATCHES = [AVAILABLE[first : first + BATCH] for first in range(0, len(AVAILABLE), BATCH)]
SETTLED = {"Ready", "Degraded", "Refused", "Failed"}
REFUSALS = {"NotBlank", "FilesystemMismatch", "Partitioned", "DeviceBusy", "ProbeFailed"}


def name_volume(number: int) -> str:
    """Return the ID of one of many volumes."""
    return f"vol-{number:017x}"


def make_entry(scratch: Scratch, volume: str, fs_type: str) -> dict[str, Any]:
    """Return an entry that allows to format a blank volume."""
    return {
        "name": volume.replace("vol-", "case"),
        "match": {"volume_id": volume},
        "filesystem": {"type": fs_type, "format": "if-blank"},
        "mount": {"path": str(scratch.data / volume)},
    }


def settle(scratch: Scratch, agent: AgentProcess, wanted: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Let the agent look at all volumes until each has come to rest, and return their statuses."""
    scratch.write_policy(*(make_entry(scratch, volume, kind) for volume, kind in wanted.items()))
    agent.start()

    def find_settled() -> dict[str, dict[str, Any]]:
        statuses = {each["volume_id"]: each for each in agent.client.status()["volumes"]}
        is_settled = statuses.keys() == wanted.keys() and all(
            each["condition"] in SETTLED for each in statuses.values()
        )
        return statuses if is_settled else {}

    found: dict[str, dict[str, Any]] = wait_until(find_settled, "every volume came to rest", 240)
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("cases", BATCHES, ids=lambda cases: f"{cases[0].name} to {cases[-1].name}")
def test_corpus_is_refused_or_mounted_as_it_is(
    scratch: Scratch, agent: AgentProcess, cases: Sequence[Case]
) -> None:
    """Each case ends Refused with not one byte changed, or mounted with its file whole; none is formatted."""
    volumes = {name_volume(number): case for number, case in enumerate(cases)}
    before = {}
    for volume, case in volumes.items():
        made = scratch.put_volume(volume, case.build)
        before[volume] = digest(made)
    statuses = settle(
        scratch, agent, {v: case.kept.type if case.kept else "ext4" for v, case in volumes.items()}
    )
    assert agent.read_events("volume.formatted") == []
    wrong = []
    for volume, case in volumes.items():
        status = statuses[volume]
        if status["condition"] == "Ready" and case.kept is not None:
            kept = scratch.data / volume / case.kept.path
            if status["fstype"] != case.kept.type or kept.read_bytes() != case.kept.content:
                wrong.append(f"{case.name}: mounted, and its file is not what it was")
        elif status["condition"] == "Refused" and case.kept is None:
            if digest(scratch.image(volume)) != before[volume]:
                wrong.append(f"{case.name}: refused, and changed")
            if status["reason"] not in REFUSALS:
                wrong.append(f"{case.name}: refused as {status['reason']}")
        elif status["condition"] == "Failed" and case.may_be_damaged:
            if digest(scratch.image(volume)) != before[volume]:
                wrong.append(f"{case.name}: failed, and changed")
        else:
            wrong.append(f"{case.name}: {status['condition']} {status['reason']} {status['message']}")
        SUMMARY["corpus cases"] += 1
    SUMMARY["corpus bytes changed"] += sum("changed" in line or "is not what" in line for line in wrong)
    assert wrong == []


def test_corpus_is_large_enough() -> None:
    """At least 80 cases can be made with the tools that scripts/prepare installs."""
    missing = {program for case in CASES.values() for program in find_missing(case.needs)}
    if len(AVAILABLE) < MIN_CASES:
        pytest.fail(f"only {len(AVAILABLE)} cases can be made; missing: {', '.join(sorted(missing))}")


@pytest.mark.timeout(600)
@pytest.mark.skipif(not IMAGES, reason="EBS_AGENT_IMAGES names no directory with images")
@pytest.mark.parametrize("source", IMAGES, ids=lambda path: path.name)
def test_images_that_others_bring_are_never_formatted(
    scratch: Scratch, agent: AgentProcess, source: Path
) -> None:
    """An image from ``EBS_AGENT_IMAGES`` is refused where the policy wants another type; no byte changes."""
    volume = name_volume(0)
    image = scratch.put_volume(volume, lambda made: unpack(source, made))
    held = run("blkid", "-p", "-o", "value", "-s", "TYPE", image, check=(0, 2, 8)).strip()
    before = digest(image)
    statuses = settle(scratch, agent, {volume: "xfs" if held == "ext4" else "ext4"})
    assert statuses[volume]["condition"] == "Refused"
    assert digest(image) == before
    SUMMARY["images of others"] += 1


@pytest.mark.timeout(300)
def test_no_truly_blank_volume_is_refused(tmp_path: Path) -> None:
    """Zeros are blank at every size from 1 GiB to 64 TiB, at sizes that are no power of two as well."""
    holder, mountpoint = tmp_path / "holder", tmp_path / "mounted"
    mountpoint.mkdir()
    sizes = [GIB << power for power in range(0, 17, 2)]
    with attached(holder, 4 * GIB) as disk:
        # XFS has files of this size; other filesystems of test machines may not.
        run("mkfs.xfs", "-q", disk)
        run("mount", disk, mountpoint)
        try:
            for number, size_bytes in enumerate([*sizes, 3 * GIB, 1000 * GIB + 512]):
                with attached(mountpoint / str(number), size_bytes) as path, opened(path) as (fd, device):
                    content = probe(fd, device)
                SUMMARY["truly blank volumes"] += 1
                SUMMARY["truly blank volumes refused"] += not isinstance(content, Blank)
                assert isinstance(content, Blank), f"{size_bytes}: {content}"
        finally:
            run("umount", mountpoint)


def test_images_are_unpacked_as_they_were(tmp_path: Path) -> None:
    """An image is the same packed by xz or not, with its holes."""
    plain, unpacked = tmp_path / "plain", tmp_path / "unpacked"
    case = CASES["ring buffer whose head moved on"]
    case.build(plain)
    before = digest(plain)
    subprocess.run(["xz", "--keep", str(plain)], check=True)
    unpack(plain.with_suffix(".xz"), unpacked)
    assert digest(unpacked) == before
    assert unpacked.stat().st_blocks * 512 < 8 << 20
