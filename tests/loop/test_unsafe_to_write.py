"""Filesystems that must not be written to as they are: parts on other volumes, never checked, or fatal."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.node.kernel.mountinfo import read_mounts
from tests.agent_process import MIB, AgentProcess, Scratch
from tests.corpus.tools import run
from tests.loop.devices import attached
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef1"
OTHER = "vol-0123456789abcdef2"


def entry(scratch: Scratch, **mount: object) -> dict[str, object]:
    return {
        "name": "ckpt",
        "match": {"volume_id": VOLUME},
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": str(scratch.data / "ckpt"), **mount},
    }


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_with_journal_elsewhere(tmp_path: Path) -> tuple[Path, Path]:
    """Make an ext4 and its journal in an image each, with a transaction left to replay."""
    images = tmp_path / "filesystem", tmp_path / "journal"
    copies = tmp_path / "filesystem.copy", tmp_path / "journal.copy"
    with attached(images[1], 32 * MIB) as journal, attached(images[0], 128 * MIB) as device:
        run("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "4096", journal)
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", f"device={journal}", device)
        mount = tmp_path / "mnt"
        mount.mkdir()
        run("mount", device, mount)
        try:
            (mount / "file").write_bytes(os.urandom(MIB))
            run("sync", "--file-system", mount)
            for image, copy in zip(images, copies, strict=True):
                shutil.copyfile(image, copy)
        finally:
            run("umount", mount)
    return copies


def test_journal_on_another_volume_is_not_replayed(
    scratch: Scratch, agent: AgentProcess, tmp_path: Path
) -> None:
    """A check would look for the journal on every device and write to it: the volume is refused before."""
    for volume, copy in zip((VOLUME, OTHER), make_with_journal_elsewhere(tmp_path), strict=True):
        copy.rename(scratch.image(volume))
    before = [digest(scratch.image(volume)) for volume in (VOLUME, OTHER)]
    scratch.write_policy(entry(scratch))
    agent.start()
    status = agent.wait_condition(VOLUME, "Refused", "NotBlank")
    assert "journal is on another device" in status["message"]
    agent.wait_condition(OTHER, "Unmanaged")
    agent.stop()
    assert [digest(scratch.image(volume)) for volume in (VOLUME, OTHER)] == before


def make_clean(image: Path) -> None:
    os.truncate(image, 64 * MIB)
    run("mkfs.ext4", "-q", "-F", image)


def make_damaged(image: Path) -> None:
    """Make an ext4 whose directory's inode is free by the bitmap, so that the next file would get it."""
    make_clean(image)
    for request in ("mkdir dir", "freei <12>", "ssv state 2"):
        run("debugfs", "-w", "-R", request, image)


def test_read_only_filesystem_is_checked_before_it_is_writable(scratch: Scratch, agent: AgentProcess) -> None:
    """With ro it was mounted unchecked; made writable as it is, its next file would be its directory."""
    scratch.put_volume(VOLUME, make_damaged)
    path = scratch.data / "ckpt"
    scratch.write_policy(entry(scratch, options=["ro"]))
    agent.start()
    wait_until(path.is_mount, "it is mounted read-only")
    assert agent.read_events("volume.checked") == []
    with subprocess.Popen(["sleep", "600"], cwd=path) as reader:
        scratch.write_policy(entry(scratch))
        agent.reload()
        # Sampling soon finds out that it takes no writes, which is worse; what is in the way stays said.
        message = agent.wait_condition(VOLUME, "Failed", "ReadOnly")["message"]
        assert f"sleep ({reader.pid})" in message
        assert not os.access(path, os.W_OK)
        reader.kill()
    wait_until(lambda: agent.read_events("volume.checked"), "it is checked once nobody uses it")
    agent.wait_condition(VOLUME, "Ready")
    (path / "new").write_text("new")
    assert (path / "dir").is_dir()


def make_dirty(image: Path, fs_type: str) -> None:
    """Make a filesystem as it is after a power loss, with a file of which only its journal tells."""
    origin, place = image.with_suffix(".origin"), image.with_suffix(".mnt")
    place.mkdir()
    with attached(origin, 64 * MIB if fs_type == "ext4" else 320 * MIB) as device:
        run(f"mkfs.{fs_type}", "-q", device)
        run("mount", device, place)
        try:
            run("sync", "--file-system", place)
            (place / "file").write_text("journalled")
            run("sync", "--file-system", place)
            run("sync", place / "file")
            shutil.copyfile(origin, image)
        finally:
            run("umount", place)


def mount_by_hand(
    scratch: Scratch, agent: AgentProcess, make: Callable[[Path], None], fs_type: str, *options: str
) -> Path:
    """Have a volume that somebody has mounted where the policy, which is not in force yet, wants it."""
    scratch.put_volume(VOLUME, make)
    scratch.write_policy()
    agent.start()
    device = agent.wait_condition(VOLUME, "Unmanaged")["device"]
    path = scratch.data / "ckpt"
    path.mkdir()
    run("mount", "-t", fs_type, "-o", ",".join(options), device, path)
    return path


def find_options(path: Path) -> frozenset[str]:
    (mount,) = (mount for mount in read_mounts() if mount.path == str(path))
    return mount.super_options


@pytest.mark.parametrize(
    ("fs_type", "option"), [("ext4", "noload"), ("xfs", "norecovery")], ids=["ext4", "xfs"]
)
def test_mount_that_ignores_its_journal_is_not_made_writable(
    scratch: Scratch, agent: AgentProcess, fs_type: str, option: str
) -> None:
    """Its journal would be replayed one day over what is written: it is checked, and mounted anew."""
    path = mount_by_hand(scratch, agent, lambda image: make_dirty(image, fs_type), fs_type, "ro", option)
    before = digest(scratch.image(VOLUME))
    wanted = entry(scratch)
    wanted["filesystem"] = {"type": fs_type}
    with subprocess.Popen(["sleep", "600"], cwd=path) as reader:
        scratch.write_policy(wanted)
        agent.reload()
        # Not by its condition: that it takes no writes is soon found out as well, and is worse.
        wait_until(lambda: agent.read_events("volume.degraded"), "it is told that somebody uses it")
        assert agent.read_events("volume.degraded")[0]["reason"] == "ReadOnly"
        assert "norecovery" in find_options(path)
        assert digest(scratch.image(VOLUME)) == before
        reader.kill()
    wait_until(lambda: agent.read_events("volume.checked"), "it is checked once nobody uses it")
    agent.wait_condition(VOLUME, "Ready")
    assert not {"ro", "norecovery"} & find_options(path)
    assert (path / "file").read_text() == "journalled"


def test_mount_that_was_made_writable_without_its_journal_is_mounted_anew(
    scratch: Scratch, agent: AgentProcess
) -> None:
    """ext4 lets a person do that. It is told while somebody uses it, and mended then."""
    path = mount_by_hand(scratch, agent, make_clean, "ext4", "ro", "noload")
    run("mount", "-o", "remount,rw", path)
    assert {"rw", "norecovery"} <= find_options(path)
    with (path / "theirs").open("w") as file:
        scratch.write_policy(entry(scratch))
        agent.reload()
        message = agent.wait_condition(VOLUME, "Degraded", "OptionsNotInForce")["message"]
        assert "without its journal" in message
        file.write("theirs")
    wait_until(lambda: agent.read_events("volume.checked"), "it is checked once nobody uses it")
    agent.wait_condition(VOLUME, "Ready")
    assert "norecovery" not in find_options(path)
    assert (path / "theirs").read_text() == "theirs"


@pytest.mark.parametrize("options", [[], ["errors=continue"]])
def test_volume_does_not_choose_that_its_errors_end_the_node(
    scratch: Scratch, agent: AgentProcess, options: list[str]
) -> None:
    """Whoever made the filesystem said panic; the mount says what the policy does, else read-only."""

    def make(image: Path) -> None:
        os.truncate(image, 64 * MIB)
        run("mkfs.ext4", "-q", "-F", image)
        run("tune2fs", "-e", "panic", image)

    scratch.put_volume(VOLUME, make)
    scratch.write_policy(entry(scratch, options=options))
    agent.start()
    device = Path(agent.wait_condition(VOLUME, "Ready")["device"]).name
    in_force = Path(f"/proc/fs/ext4/{device}/options").read_text().split()
    assert (options or ["errors=remount-ro"])[0] in in_force
