"""The whole agent on stand-in volumes: from a file that appears to a filesystem in use, and back."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.node.kernel.mountinfo import read_mounts
from tests.agent_process import MIB, AgentProcess, Scratch
from tests.corpus.tools import digest
from tests.waiting import wait_until

VOLUME = "vol-0123456789abcdef0"
OTHER = "vol-0123456789abcdef1"


def entry(scratch: Scratch, fs_type: str = "ext4", volume: str = VOLUME, **fields: Any) -> dict[str, Any]:
    """Return a policy entry that formats a blank volume and mounts it below the data directory."""
    mount = {"path": str(scratch.data / fields.pop("name", "ckpt")), **fields.pop("mount", {})}
    return {
        "name": Path(mount["path"]).name.strip("{}"),
        "match": {"volume_id": volume},
        "filesystem": {"type": fs_type, "format": "if-blank"},
        "mount": mount,
        **fields,
    }


def find_mount(path: Path) -> Any:
    """Return the mount at ``path``, None if there is none."""
    return next((mount for mount in read_mounts() if mount.path == str(path)), None)


def make_filesystem(fs_type: str, size_bytes: int = 512 * MIB) -> Any:
    """Return a function that writes a filesystem of ``fs_type`` to an image."""

    def fill(image: Path) -> None:
        image.touch()
        os.truncate(image, size_bytes)
        force = "-F" if fs_type == "ext4" else "-f"
        subprocess.run([f"mkfs.{fs_type}", "-q", force, str(image)], check=True)

    return fill


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_blank_volume_is_formatted_and_mounted(scratch: Scratch, agent: AgentProcess, fs_type: str) -> None:
    """A blank volume attached while the agent runs is formatted, mounted with safe options, and usable."""
    scratch.write_policy(entry(scratch, fs_type, mount={"mode": "0770"}))
    agent.start()
    scratch.add_volume(VOLUME)
    status = agent.wait_condition(VOLUME, "Ready")
    mount = find_mount(scratch.data / "ckpt")
    assert mount.fs_type == status["fstype"] == fs_type
    assert {"nosuid", "nodev"} <= mount.options
    assert (scratch.data / "ckpt").stat().st_mode & 0o7777 == 0o770
    (scratch.data / "ckpt" / "file").write_text("written")


@pytest.mark.parametrize("fs_type", ["ext4", "xfs", "btrfs"])
def test_existing_filesystem_keeps_its_data(scratch: Scratch, agent: AgentProcess, fs_type: str) -> None:
    """A volume with a filesystem is checked and mounted, and what was on it is on it."""
    scratch.write_policy(entry(scratch, fs_type))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    (scratch.data / "ckpt" / "weights").write_bytes(b"\x01" * MIB)
    agent.stop()
    subprocess.run(["umount", str(scratch.data / "ckpt")], check=True)
    shutil.rmtree(scratch.paths.state)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    assert (scratch.data / "ckpt" / "weights").read_bytes() == b"\x01" * MIB
    assert agent.read_events("volume.formatted") == []
    assert len(agent.read_events("volume.checked")) == 1


def test_volume_with_unsigned_data_is_refused(scratch: Scratch, agent: AgentProcess) -> None:
    """Data without any signature, far into the volume, is enough to refuse it; not a byte changes."""

    def fill(image: Path) -> None:
        os.truncate(image, 512 * MIB)
        with image.open("r+b") as file:
            file.seek(200 * MIB)
            file.write(b"application data")

    image = scratch.put_volume(VOLUME, fill)
    before = digest(image)
    scratch.write_policy(entry(scratch))
    agent.start()
    status = agent.wait_condition(VOLUME, "Refused", "NotBlank")
    assert "209715200" in status["message"]
    agent.stop()
    assert digest(image) == before


def test_blank_volume_is_refused_without_permission(scratch: Scratch, agent: AgentProcess) -> None:
    """A blank volume whose policy says nothing of formatting is not formatted."""
    image = scratch.add_volume(VOLUME)
    before = digest(image)
    scratch.write_policy(entry(scratch, filesystem={"type": "ext4"}))
    agent.start()
    agent.wait_condition(VOLUME, "Refused", "FormatNotAllowed")
    assert digest(image) == before


def test_lost_records_do_not_lose_data(scratch: Scratch, agent: AgentProcess) -> None:
    """A volume formatted by the agent that now reads blank is refused: something wiped it."""
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    agent.stop()
    scratch.clean()
    scratch.image(VOLUME).unlink()
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Refused", "AlreadyFormatted")


@pytest.mark.parametrize("fs_type", ["xfs", "btrfs"])
def test_grows_while_in_use(scratch: Scratch, agent: AgentProcess, fs_type: str) -> None:
    """A volume that gets bigger is grown while a file on it is open and written."""
    scratch.write_policy(entry(scratch, fs_type, grow=True))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    with (scratch.data / "ckpt" / "busy").open("wb") as file:
        file.write(b"before")
        file.flush()
        os.truncate(scratch.image(VOLUME), 1024 * MIB)
        wait_until(
            lambda: shutil.disk_usage(scratch.data / "ckpt").total > 800 * MIB, "the filesystem is bigger"
        )
        file.write(b" after")
    assert (scratch.data / "ckpt" / "busy").read_bytes() == b"before after"


def test_raw_volume_is_linked_with_its_mode(scratch: Scratch, agent: AgentProcess) -> None:
    """A block entry gives links by ID and by name, and the node its mode, whatever is on the volume."""
    scratch.put_volume(VOLUME, make_filesystem("xfs"))
    scratch.write_policy({"name": "rawdb", "match": {"volume_id": VOLUME}, "block": {"mode": "0600"}})
    agent.start()
    status = agent.wait_condition(VOLUME, "Ready")
    link = scratch.paths.dev_ebs / "rawdb"
    assert status["path"] == str(link)
    assert link.readlink() == (scratch.paths.dev_ebs / "by-id" / VOLUME).readlink()
    assert link.stat().st_mode & 0o777 == 0o600
    scratch.image(VOLUME).unlink()
    agent.wait_condition(VOLUME, "Pending", "NotAttached")
    wait_until(lambda: not link.is_symlink(), "the link of an absent volume is gone")


@pytest.mark.parametrize("fs_type", ["ext4", "btrfs"])
def test_pulled_volume_is_lost_and_comes_back(scratch: Scratch, agent: AgentProcess, fs_type: str) -> None:
    """A volume pulled while mounted is Lost and its stale mount detached; it returns by itself, checked."""
    scratch.write_policy(entry(scratch, fs_type))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    (scratch.data / "ckpt" / "file").write_text("kept")
    subprocess.run(["sync", "--file-system", str(scratch.data / "ckpt")], check=True)
    copy = scratch.base / "copy"
    shutil.copyfile(scratch.image(VOLUME), copy)
    scratch.image(VOLUME).unlink()
    agent.wait_condition(VOLUME, "Lost", "DeviceGone")
    wait_until(lambda: find_mount(scratch.data / "ckpt") is None, "the stale mount is gone")
    copy.rename(scratch.image(VOLUME))
    agent.wait_condition(VOLUME, "Ready")
    assert (scratch.data / "ckpt" / "file").read_text() == "kept"
    assert len(agent.read_events("volume.checked")) == 1


def test_volume_exchanged_while_the_agent_was_away_is_never_told_as_refused(
    scratch: Scratch, agent: AgentProcess
) -> None:
    """Its own stale mount is in its way until the agent takes it away, which is nobody's to know."""
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    (scratch.data / "ckpt" / "file").write_text("kept")
    os.sync()
    copy = scratch.base / "copy"
    shutil.copyfile(scratch.image(VOLUME), copy)
    agent.kill()
    scratch.image(VOLUME).unlink()
    copy.rename(scratch.image(VOLUME))
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    assert (scratch.data / "ckpt" / "file").read_text() == "kept"
    assert len(agent.read_events("volume.unmounted")) == 1
    assert agent.read_events("volume.refused") == []


@pytest.mark.parametrize("fs_type", ["ext4", pytest.param("xfs", marks=pytest.mark.thorough)])
def test_programs_left_on_a_pulled_volume_are_named(
    scratch: Scratch, agent: AgentProcess, fs_type: str
) -> None:
    """Programs that still use what was pulled are named when the volume is back, each until it lets go."""
    scratch.write_policy(entry(scratch, fs_type), resync="1s")
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    path = scratch.data / "ckpt"
    (path / "file").write_text("kept")
    os.sync()
    copy = scratch.base / "copy"
    shutil.copyfile(scratch.image(VOLUME), copy)
    with (
        (path / "file").open() as file,
        subprocess.Popen(["sleep", "1000"], stdin=file, cwd="/") as reader,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=path) as stander,
    ):
        file.close()
        scratch.image(VOLUME).unlink()
        agent.wait_condition(VOLUME, "Lost", "DeviceGone")
        copy.rename(scratch.image(VOLUME))
        message = agent.wait_condition(VOLUME, "Degraded", "StaleMount")["message"]
        assert f"sleep ({reader.pid})" in message
        assert f"cat ({stander.pid})" in message
        assert (path / "file").read_text() == "kept"
        reader.kill()
        reader.wait()
        wait_until(lambda: "sleep" not in agent.status(VOLUME)["message"], "it was noticed that one ended")
        agent.wait_condition(VOLUME, "Degraded", "StaleMount")
        stander.communicate()
    agent.wait_condition(VOLUME, "Ready")


def test_restart_leaves_mounts_alone(scratch: Scratch, agent: AgentProcess) -> None:
    """Stopping the agent unmounts nothing; started again it finds its mount as it was."""
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    before = find_mount(scratch.data / "ckpt")
    with (scratch.data / "ckpt" / "open").open("w") as file:
        assert agent.stop() == 0
        agent.start()
        agent.wait_condition(VOLUME, "Ready")
        file.write("through")
    assert find_mount(scratch.data / "ckpt") == before
    assert agent.read_events("volume.mounted") == []


def test_killed_agent_continues_where_it_was(scratch: Scratch, agent: AgentProcess) -> None:
    """Killed as soon as it formats and started again, the volume ends Ready with one filesystem."""
    scratch.write_policy(entry(scratch, "xfs"))
    agent.start()
    scratch.add_volume(VOLUME)
    wait_until((scratch.paths.state / "formats" / f"{VOLUME}.json").exists, "a format was intended")
    agent.kill()
    agent.start()
    agent.wait_condition(VOLUME, "Ready")


def test_volume_without_entry_stays_unmounted_for_repair(scratch: Scratch, agent: AgentProcess) -> None:
    """Taken out of the policy it stays mounted; unmounted by hand then, it is left to whoever repairs it."""
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    device = agent.wait_condition(VOLUME, "Ready")["device"]
    scratch.write_policy(entry(scratch, volume=OTHER, name="other"), resync="1s")
    agent.reload()
    agent.wait_condition(VOLUME, "Unmanaged", "NotInPolicy")
    assert find_mount(scratch.data / "ckpt") is not None
    subprocess.run(["umount", scratch.data / "ckpt"], check=True)
    # Something else of the node comes and is mounted meanwhile.
    scratch.add_volume(OTHER)
    agent.wait_condition(OTHER, "Ready")
    assert find_mount(scratch.data / "ckpt") is None
    subprocess.run(["e2fsck", "-f", "-p", device], check=True, capture_output=True)
    scratch.write_policy(entry(scratch))
    agent.reload()
    agent.wait_condition(VOLUME, "Ready")
    assert find_mount(scratch.data / "ckpt") is not None


def test_reload_moves_and_remounts(scratch: Scratch, agent: AgentProcess) -> None:
    """A path changed in the policy moves the mount, and options changed remount it, both in place."""
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    (scratch.data / "ckpt" / "file").write_text("kept")
    scratch.write_policy(entry(scratch, name="moved", mount={"options": ["noatime"]}))
    agent.reload()
    wait_until(lambda: find_mount(scratch.data / "moved"), "the mount has moved")
    wait_until(lambda: "noatime" in find_mount(scratch.data / "moved").options, "the mount has its options")
    assert find_mount(scratch.data / "ckpt") is None
    assert (scratch.data / "moved" / "file").read_text() == "kept"


@pytest.mark.parametrize(("old", "new"), [("run/one", "run"), ("one", "one/sub")])
def test_path_in_the_other_moves_without_hiding_anything(
    scratch: Scratch, agent: AgentProcess, old: str, new: str
) -> None:
    """One path lies in the other: unmounted first, it leaves no directory on the volume."""
    scratch.write_policy(entry(scratch, name=old.replace("/", "-"), mount={"path": str(scratch.data / old)}))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    (scratch.data / old / "file").write_text("kept")
    scratch.write_policy(entry(scratch, name=new.replace("/", "-"), mount={"path": str(scratch.data / new)}))
    agent.reload()
    wait_until(lambda: find_mount(scratch.data / new), "the mount has moved")
    agent.wait_condition(VOLUME, "Ready")
    assert sorted(path.name for path in (scratch.data / new).iterdir()) == ["file", "lost+found"]


def test_what_is_mounted_below_a_path_is_not_hidden(scratch: Scratch, agent: AgentProcess) -> None:
    """Something of others is mounted further down: the volume is refused, and that stays in sight."""
    neighbour = scratch.data / "ckpt" / "other"
    neighbour.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", neighbour], check=True)
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    message = agent.wait_condition(VOLUME, "Refused", "PathInUse")["message"]
    assert str(neighbour) in message
    subprocess.run(["umount", neighbour], check=True)
    agent.wait_condition(VOLUME, "Ready")


def test_move_that_was_cut_off_is_ended(scratch: Scratch, agent: AgentProcess) -> None:
    """Killed when it was mounted at both paths, it is mounted at the new one alone after the next start."""
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    agent.stop()
    (scratch.data / "moved").mkdir()
    subprocess.run(["mount", "--bind", scratch.data / "ckpt", scratch.data / "moved"], check=True)
    scratch.write_policy(entry(scratch, name="moved"))
    agent.start()
    wait_until(lambda: find_mount(scratch.data / "ckpt") is None, "it is not at the old path any more")
    agent.wait_condition(VOLUME, "Ready")
    assert find_mount(scratch.data / "moved") is not None


def test_busy_mount_does_not_move(scratch: Scratch, agent: AgentProcess) -> None:
    """A mount in use stays where it is, Degraded, and the process in the way is named."""
    scratch.write_policy(entry(scratch))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    with subprocess.Popen(["sleep", "600"], cwd=scratch.data / "ckpt") as sleeper:
        scratch.write_policy(entry(scratch, name="moved"))
        agent.reload()
        status = agent.wait_condition(VOLUME, "Degraded", "PathInUse")
        assert f"sleep ({sleeper.pid})" in status["message"]
        assert find_mount(scratch.data / "ckpt") is not None
        sleeper.kill()
    wait_until(lambda: find_mount(scratch.data / "moved"), "the mount has moved once it could")


def test_bad_reload_keeps_the_policy(scratch: Scratch, agent: AgentProcess) -> None:
    """A policy that is not valid is rejected with its problems, and the old one stays in force."""
    scratch.write_policy(entry(scratch))
    agent.start()
    scratch.paths.policy.write_text("version: 1\nvolumes: [{nmae: x}]\n")
    agent.reload()
    wait_until(lambda: agent.read_events("policy.rejected"), "the policy was rejected")
    scratch.add_volume(VOLUME)
    agent.wait_condition(VOLUME, "Ready")


def test_no_parser_is_in_the_daemon(scratch: Scratch, agent: AgentProcess) -> None:
    """The policy's libraries come into no process that stays: not at the start, by a reload or a refusal."""
    scratch.write_policy(entry(scratch))
    agent.start()
    scratch.write_policy(entry(scratch, name="other"))
    agent.reload()
    wait_until(lambda: agent.read_events("policy.reloaded"), "the policy was read again")
    scratch.paths.policy.write_text("version: 1\nvolumes: [{nmae: x}]\n")
    agent.reload()
    (refusal,) = wait_until(lambda: agent.read_events("policy.rejected"), "the policy was rejected")
    assert "has 2 problems; the first is line 2, column" in refusal["error"]
    wait_until(lambda: not find_parsers(agent.pid), "what read the policy has ended")


def find_parsers(pid: int) -> set[str]:
    """Return the libraries of the policy's that an agent's processes have loaded."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    assert len(family) > 1
    maps = "".join(Path(f"/proc/{member.pid}/maps").read_text(encoding="utf-8") for member in family)
    return set(re.findall(r"pydantic_core|_yaml", maps))


def test_signals_are_heeded_from_the_start(scratch: Scratch, agent: AgentProcess) -> None:
    """A reload asked for while the agent starts comes after it, and an end at once; neither kills it."""
    scratch.write_policy(entry(scratch))
    agent.start(wait=False)
    wait_until(lambda: agent.read_events("agent.started"), "the agent began")
    agent.reload()
    wait_until(lambda: agent.read_events("policy.reloaded"), "the policy was read again")
    assert agent.stop() == 0
    agent.start(wait=False)
    wait_until(lambda: agent.read_events("agent.started"), "the agent began")
    assert agent.stop() == 0


def test_one_bad_volume_stops_no_other(scratch: Scratch, agent: AgentProcess) -> None:
    """A volume that cannot be mounted leaves the others Ready."""
    (scratch.data / "bad").write_text("a file where a directory is needed")
    scratch.write_policy(entry(scratch, name="bad"), entry(scratch, volume=OTHER, name="good"))
    scratch.add_volume(VOLUME)
    scratch.add_volume(OTHER)
    agent.start()
    agent.wait_condition(OTHER, "Ready")
    status = agent.wait_condition(VOLUME, "Refused")
    assert str(scratch.data / "bad") in status["message"]


def test_symlink_in_the_path_is_not_followed(scratch: Scratch, agent: AgentProcess) -> None:
    """A symlink planted beneath an allowed root is refused, and nothing is mounted where it leads."""
    elsewhere = scratch.base / "elsewhere"
    elsewhere.mkdir()
    (scratch.data / "planted").symlink_to(elsewhere)
    scratch.write_policy(entry(scratch, mount={"path": str(scratch.data / "planted" / "ckpt")}))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Refused")
    assert list(elsewhere.iterdir()) == []


def test_filesystem_of_another_type_is_refused(scratch: Scratch, agent: AgentProcess) -> None:
    """A filesystem the policy does not expect is neither mounted nor replaced."""
    image = scratch.put_volume(VOLUME, make_filesystem("xfs"))
    before = digest(image)
    scratch.write_policy(entry(scratch, "ext4"))
    agent.start()
    agent.wait_condition(VOLUME, "Refused", "FilesystemMismatch")
    assert digest(image) == before


def start_with_partition(scratch: Scratch, agent: AgentProcess, label: str) -> None:
    """Have a volume mounted whose filesystem is on its only partition."""

    def fill(image: Path) -> None:
        os.truncate(image, 512 * MIB)
        layout = f"label: {label}\nstart=1MiB, size=510MiB\n"
        subprocess.run(["sfdisk", "-q", str(image)], input=layout, text=True, check=True)
        start, size = 1 * MIB, 510 * MIB
        part = image.with_suffix(".part")
        make_filesystem("xfs", size)(part)
        with image.open("r+b") as whole, part.open("rb") as content:
            whole.seek(start)
            shutil.copyfileobj(content, whole)
        part.unlink()

    scratch.put_volume(VOLUME, fill)
    scratch.write_policy(entry(scratch, "xfs", grow=True))
    agent.start()
    device = Path(agent.wait_device(VOLUME))
    if not Path(f"/sys/block/{device.name}/{device.name}p1").exists():
        # Small kernels know no partition tables, yet take partitions that they are told of.
        subprocess.run(["partx", "--update", device], check=True)
    agent.wait_condition(VOLUME, "Ready")


def test_partition_that_cannot_grow_leaves_nothing_else_undone(scratch: Scratch, agent: AgentProcess) -> None:
    """An MBR reaches 2 TiB: beyond, the volume is Degraded, used on, and kept as the policy says else."""
    start_with_partition(scratch, agent, "dos")
    os.truncate(scratch.image(VOLUME), 3 << 40)
    status = agent.wait_condition(VOLUME, "Degraded", "NotGrown")
    assert "GPT" in status["message"]
    path = scratch.data / "ckpt"
    scratch.write_policy(entry(scratch, "xfs", grow=True, mount={"path": str(path), "mode": "0711"}))
    agent.reload()
    wait_until(lambda: path.stat().st_mode & 0o777 == 0o711, "its root has the mode of the policy")
    assert agent.wait_condition(VOLUME, "Degraded", "NotGrown")["path"] == str(path)


def test_partitioned_volume_is_grown_partition_first(scratch: Scratch, agent: AgentProcess) -> None:
    """A filesystem on the only partition is mounted from there, and partition and filesystem both grow."""
    start_with_partition(scratch, agent, "gpt")
    (scratch.data / "ckpt" / "file").write_text("kept")
    os.truncate(scratch.image(VOLUME), 1024 * MIB)
    wait_until(lambda: shutil.disk_usage(scratch.data / "ckpt").total > 800 * MIB, "the filesystem is bigger")
    assert (scratch.data / "ckpt" / "file").read_text() == "kept"
    wait_until(lambda: agent.read_events("volume.grown"), "that is told")


def test_path_is_made_from_what_the_node_knows_of_itself(scratch: Scratch, agent: AgentProcess) -> None:
    """With the cluster's file and no AWS at all, a path template is filled in before the first look."""
    config = scratch.base / "resource_config.json"
    instance = {
        "InstanceName": "compute-1",
        "CustomerIpAddress": "127.0.0.1",
        "InstanceId": "i-0123456789abcdef0",
    }
    group = {"Name": "compute", "InstanceType": "ml.p5.48xlarge", "Instances": [instance]}
    cluster = {
        "ClusterArn": "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz",
        "ClusterName": "c",
    }
    config.write_text(json.dumps({"ClusterConfig": cluster, "InstanceGroups": [group]}))
    agent.environment["SAGEMAKER_RESOURCE_CONFIG_PATH"] = str(config)
    path = str(scratch.data / "{instance_group}" / "{instance_name}")
    scratch.write_policy(entry(scratch, mount={"path": path}), cloud={"enabled": False})
    scratch.add_volume(VOLUME)
    agent.start()
    status = agent.wait_condition(VOLUME, "Ready")
    assert status["path"] == str(scratch.data / "compute" / "compute-1")
    assert agent.read_events("volume.failed") == []


@pytest.mark.parametrize(
    ("fs_type", "before", "after", "condition", "shown", "hidden"),
    [
        ("ext4", ["sync", "discard", "commit=60"], [], "Ready", set(), {"sync", "discard", "commit=60"}),
        ("xfs", [], ["allocsize=1m", "swalloc"], "Degraded", set(), {"swalloc"}),
        ("xfs", ["swalloc", "sync"], [], "Degraded", {"swalloc"}, {"sync"}),
        ("btrfs", [], ["subvol=@data"], "Degraded", {"subvol=/"}, set()),
    ],
)
def test_options_are_told_as_they_are_in_force(  # noqa: PLR0917 - a table's columns
    scratch: Scratch,
    agent: AgentProcess,
    fs_type: str,
    before: list[str],
    after: list[str],
    condition: str,
    shown: set[str],
    hidden: set[str],
) -> None:
    """What a reload changes is changed by a remount, or told as in force from the next mount on only."""
    scratch.write_policy(entry(scratch, fs_type, mount={"options": before}))
    scratch.add_volume(VOLUME)
    agent.start()
    agent.wait_condition(VOLUME, "Ready")
    scratch.write_policy(entry(scratch, fs_type, mount={"options": after}))
    agent.reload()
    reason = "OptionsNotInForce" if condition == "Degraded" else None
    if reason is None:
        wait_until(lambda: agent.read_events("volume.remounted"), "it is remounted")
    agent.wait_condition(VOLUME, condition, reason)
    # What is not in force is told at once, before the remount that brings the rest.
    wait_until(lambda: not hidden & find_mount(scratch.data / "ckpt").super_options, "it is remounted")
    assert shown <= find_mount(scratch.data / "ckpt").super_options
    agent.stop()
    agent.start()
    agent.wait_condition(VOLUME, condition, reason)


def test_reload_asks_again_which_node_this_is(
    scratch: Scratch, agent: AgentProcess, short_path: Path
) -> None:
    """A node that was moved to another cluster is called by its new name once the policy is read again."""
    config = short_path / "resource_config.json"

    def name_node(name: str) -> None:
        instance = {
            "InstanceName": name,
            "CustomerIpAddress": "127.0.0.1",
            "InstanceId": "i-0123456789abcdef0",
        }
        arn = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
        groups = [{"Name": "compute", "Instances": [instance]}]
        config.write_text(json.dumps({"ClusterConfig": {"ClusterArn": arn}, "InstanceGroups": groups}))

    name_node("old-1")
    agent.environment["SAGEMAKER_RESOURCE_CONFIG_PATH"] = str(config)
    scratch.write_policy(entry(scratch, name="{instance_name}"), cloud={"enabled": False})
    scratch.add_volume(VOLUME)
    agent.start()
    assert agent.wait_condition(VOLUME, "Ready")["path"] == str(scratch.data / "old-1")
    name_node("new-1")
    agent.reload()
    wait_until(lambda: find_mount(scratch.data / "new-1") or None, "the mount was moved")
    assert agent.wait_condition(VOLUME, "Ready")["path"] == str(scratch.data / "new-1")
