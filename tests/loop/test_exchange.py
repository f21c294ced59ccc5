"""Volumes that change places: all of them at once, or none."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import AgentError
from agent.core.model import DeviceNumber, FsType, Relocation, VolumeId
from agent.node.filesystem.mount import mount_filesystem
from agent.node.kernel.mountinfo import find_top_mount, read_mounts
from agent.node.mounts.exchange_mounts import exchange_mounts
from tests.agent_process import AgentProcess, Scratch
from tests.loop.disks import Bench
from tests.loop.test_daemon import entry, find_mount
from tests.loop.test_growth import see_number
from tests.waiting import wait_until

VOLUMES = [f"vol-0123456789abcde{number:02d}" for number in range(3)]


def start(scratch: Scratch, agent: AgentProcess, names: list[str], **settings: Any) -> None:
    """Start the agent with a volume at each name, and a file on it that bears that name."""
    write(scratch, names, **settings)
    for volume in VOLUMES[: len(names)]:
        scratch.add_volume(volume)
    agent.start()
    for volume, name in zip(VOLUMES, names, strict=False):
        agent.wait_condition(volume, "Ready")
        (scratch.data / name / "was").write_text(name)


def write(scratch: Scratch, names: list[str], options: tuple[str, ...] = (), **settings: Any) -> None:
    """Have the policy want the volumes at these names, one after the other."""
    mount = {"options": list(options)}
    pairs = zip(VOLUMES, names, strict=False)
    entries = (entry(scratch, volume=one, name=name, mount=mount) for one, name in pairs)
    scratch.write_policy(*entries, **settings)


def number(scratch: Scratch, names: list[str]) -> list[DeviceNumber | None]:
    """Return whose mount is at each name, without using it: who waits by reading a file is in the way."""
    mounts = (find_top_mount(read_mounts(), str(scratch.data / name)) for name in names)
    return [None if mount is None else mount.device_number for mount in mounts]


def read(scratch: Scratch, names: list[str]) -> list[str]:
    """Return what was at each name at the start."""
    return [
        path.read_text() if (path := scratch.data / name / "was").exists() else "nothing" for name in names
    ]


def is_ready_at(agent: AgentProcess, volume: str, path: Path) -> bool:
    status = agent.status(volume)
    return (status["condition"], status["path"]) == ("Ready", str(path))


def has_option(path: Path, option: str) -> bool:
    return option in find_mount(path).options


def list_mounts(scratch: Scratch) -> list[str]:
    return sorted(mount.path for mount in read_mounts() if Path(mount.path).parent == scratch.data)


@pytest.mark.parametrize("count", [2, 3])
def test_volumes_change_places(scratch: Scratch, agent: AgentProcess, count: int) -> None:
    """Two that exchange their paths, or three in a ring, are moved at once, with the options wanted there."""
    old = ["a", "b", "c"][:count]
    new = [*old[1:], old[0]]
    start(scratch, agent, old)
    numbers = number(scratch, old)
    write(scratch, new, options=("noatime",))
    agent.reload()
    wait_until(lambda: number(scratch, new) == numbers, "they changed places")
    for volume, name in zip(VOLUMES, new, strict=False):
        is_told = partial(is_ready_at, agent, volume, scratch.data / name)
        wait_until(is_told, f"{volume} is Ready at {name}")
        has_options = partial(has_option, scratch.data / name, "noatime")
        wait_until(has_options, f"{name} has its options")
    assert read(scratch, new) == old
    assert list_mounts(scratch) == [str(scratch.data / name) for name in old]
    for event in ("volume.refused", "volume.degraded", "volume.failed", "step.failed"):
        assert agent.read_events(event) == []
    # What was asked for is known at the new places: nothing is left to be done there.
    assert agent.client.plan()["volumes"][0]["plan"] == []


def test_nothing_is_moved_while_one_is_in_use(scratch: Scratch, agent: AgentProcess) -> None:
    """As long as somebody uses one of them each stays where it is, and it is said who; then they go."""
    start(scratch, agent, ["a", "b"])
    before, numbers = list_mounts(scratch), number(scratch, ["a", "b"])
    sleeper = subprocess.Popen(["sleep", "600"], cwd=scratch.data / "b")
    try:
        write(scratch, ["b", "a"])
        agent.reload()
        for volume in VOLUMES[:2]:
            agent.wait_condition(volume, "Degraded")
            # Beside it, for a moment, mkfs.btrfs of another test may have a copy of all mounts.
            user = f"sleep ({sleeper.pid})"
            wait_until(lambda: user in agent.status(volume)["message"], "it is said who")  # noqa: B023 -- at once
        assert (list_mounts(scratch), read(scratch, ["a", "b"])) == (before, ["a", "b"])
    finally:
        sleeper.kill()
        sleeper.wait()
    wait_until(lambda: number(scratch, ["b", "a"]) == numbers, "they changed places")
    for volume in VOLUMES[:2]:
        agent.wait_condition(volume, "Ready")
    assert read(scratch, ["b", "a"]) == ["a", "b"]


def test_chain_moves_one_after_the_other(scratch: Scratch, agent: AgentProcess) -> None:
    """What waits for a place that becomes free has it at once, and not when it is looked at next."""
    start(scratch, agent, ["a", "b"], resync="1h")
    numbers = number(scratch, ["a", "b"])
    write(scratch, ["b", "c"], resync="1h")
    agent.reload()
    wait_until(lambda: number(scratch, ["b", "c"]) == numbers, "both have moved")
    for volume in VOLUMES[:2]:
        agent.wait_condition(volume, "Ready")
    assert read(scratch, ["b", "c"]) == ["a", "b"]


def test_what_was_unmounted_is_put_back(bench: Bench) -> None:
    """Where one of them turns out to be in use only as it is unmounted, all are where they were."""
    first, second = f"{bench.root}/first", f"{bench.root}/second"
    for path in (first, second):
        disk = bench.add_disk()
        mount_filesystem(bench.request(disk, FsType.XFS, disk.make(FsType.XFS), Path(path).name))
    first_number, second_number = see_number(first), see_number(second)
    within = Path(second) / "within"
    within.mkdir()
    (Path(first) / "file").write_text("kept")
    subprocess.run(["mount", "-t", "tmpfs", "none", within], check=True)
    exchange = (
        Relocation(VolumeId(VOLUMES[0]), first, first_number, second),
        Relocation(VolumeId(VOLUMES[1]), second, second_number, first),
    )
    try:
        with pytest.raises(AgentError, match="busy") as caught:
            exchange_mounts(exchange, (bench.root,))
        assert str(within) in (caught.value.hint or "")
        assert (see_number(first), see_number(second)) == (first_number, second_number)
        (Path(first) / "file").write_text("and can be written to")
    finally:
        subprocess.run(["umount", within], check=True)
    exchange_mounts(exchange, (bench.root,))
    assert (see_number(first), see_number(second)) == (second_number, first_number)
    assert len([mount for mount in read_mounts() if mount.path in {first, second}]) == 2


def test_what_stays_is_nobodys_to_move(scratch: Scratch, agent: AgentProcess) -> None:
    """One that is wanted where somebody else's mount is waits for that, though another wants its place."""
    start(scratch, agent, ["a", "b"])
    (scratch.data / "c").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", scratch.data / "c"], check=True)
    write(scratch, ["b", "c"])
    agent.reload()
    for volume in VOLUMES[:2]:
        agent.wait_condition(volume, "Degraded")
    assert read(scratch, ["a", "b"]) == ["a", "b"]
