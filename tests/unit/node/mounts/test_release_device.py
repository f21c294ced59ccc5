"""Who has a device open is asked until it is sure: nobody is taken for gone who was merely not seen."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.core.errors import AgentError
from agent.core.model import Device, DeviceNumber, Identity, Process, Reason, VolumeId
from agent.core.replace import replace
from agent.node.kernel.open_files import list_descriptors, list_processes
from agent.node.mounts import release_device
from agent.node.mounts.detached_mounts import Leftover, User, list_left
from agent.node.mounts.release_device import Users, check_unused, find_users

PID = 5_000_001
"""More than any kernel gives out, so that no process of this machine is meant."""
HOLDER = Process(PID, "db", "root")
NUMBERS = frozenset({DeviceNumber(7, 255)})
IDENTITY = Identity(VolumeId("vol-0123456789abcdef0"), "vol0123456789abcdef0", "Amazon Elastic Block Store")
DEVICE = Device("/dev/nvme1n1", DeviceNumber(7, 255), IDENTITY, 1 << 30)


class Proc:
    """A /proc of one process, in which descriptors close between two looks at them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process = root / str(PID)
        for directory in (
            root / "1/fd",
            root / "1/ns",
            self.process / "fd",
            self.process / "fdinfo",
            self.process / "ns",
        ):
            directory.mkdir(parents=True)
        (self.process / "comm").write_text("db\n")
        (self.process / "status").write_text("Name:\tdb\nUid:\t0\t0\t0\t0\n")
        (self.process / "mountinfo").write_text("30 1 0:5 / /dev rw,nosuid - devtmpfs dev rw\n")
        (self.process / "ns/mnt").symlink_to("mnt:[1]")
        (self.process / "root").symlink_to("/")

    def open(self, number: int, target: Path | str, mount_id: int | None = 30) -> None:
        """Show a descriptor; one without a mount closed after it was listed."""
        (self.process / "fd" / str(number)).symlink_to(target)
        if mount_id is not None:
            (self.process / "fdinfo" / str(number)).write_text(f"pos:\t0\nmnt_id:\t{mount_id}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """Return a device node that nobody else has open; skip where none can be made."""
    path = tmp_path / "node"
    try:
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 255))
    except PermissionError:
        pytest.skip("only root makes device nodes")
    yield path
    path.unlink()


@pytest.fixture(autouse=True)
def _unclaimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the kernel grant the device, which is none."""
    monkeypatch.setattr(release_device, "_is_claimed", lambda _: False)


def test_closed_descriptors_hide_no_other(proc: Proc, node: Path) -> None:
    """Descriptors that close while they are looked at, before and after the one, take nothing from it."""
    proc.open(3, "/gone/before", mount_id=None)
    proc.open(5, node)
    proc.open(7, "/gone/after", mount_id=None)
    users = find_users(str(node), NUMBERS, proc.root)
    assert [process.pid for process in users.processes] == [PID]
    assert not users.unread


def test_device_node_on_a_disk_is_one(proc: Proc, node: Path) -> None:
    """A device node may lie on any filesystem that is not mounted with nodev."""
    (proc.process / "mountinfo").write_text(
        "40 1 8:1 / / rw - ext4 /dev/vda1 rw\n41 40 8:2 / /data rw,nodev - ext4 /dev/vdb rw\n"
    )
    proc.open(5, node, mount_id=41)
    assert not find_users(str(node), NUMBERS, proc.root).are_any
    proc.open(6, node, mount_id=40)
    assert find_users(str(node), NUMBERS, proc.root).are_any


def test_threads_are_asked_where_the_first_has_ended(proc: Proc, node: Path) -> None:
    """The kernel shows nothing open at a process whose first thread is gone; the others have it on."""
    proc.open(5, node)
    thread = proc.process / "task" / str(PID + 1)
    thread.mkdir(parents=True)
    for name in ("fd", "fdinfo"):
        (proc.process / name).rename(thread / name)
        (proc.process / name).mkdir()
    assert find_users(str(node), NUMBERS, proc.root).are_any


@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENOMEM, errno.EIO])
def test_process_that_cannot_be_read_is_not_known(
    error: int, proc: Proc, node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what a process has open cannot be listed, it is told as that and not as nobody."""
    fail_listing(monkeypatch, proc.process / "fd", error)
    users = find_users(str(node), NUMBERS, proc.root)
    assert [process.pid for process in users.unread] == [PID]
    assert not users.are_any


def fail_listing(monkeypatch: pytest.MonkeyPatch, directory: Path, error: int) -> None:
    listdir = os.listdir

    def fail(path: str | Path) -> list[str]:
        if os.fsdecode(path) == str(directory):
            raise OSError(error, os.strerror(error), str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", fail)


def test_hidden_processes_are_noticed(proc: Proc) -> None:
    """Where not even the first process is shown, others are hidden too, and nobody can be ruled out."""
    assert {process.name for process in list_processes(proc.root)} == {"1", str(PID)}
    shutil.rmtree(proc.root / "1")
    with pytest.raises(PermissionError):
        list_processes(proc.root)


def test_init_that_is_shielded_is_let_be(proc: Proc, node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that shields its first process, even from root, does not make every detach impossible."""
    fail_listing(monkeypatch, proc.root / "1/fd", errno.EACCES)
    assert find_users(str(node), NUMBERS, proc.root) == Users()


def test_process_that_ended_has_nothing_open(proc: Proc) -> None:
    """One that is gone is no error."""
    assert list(list_descriptors(proc.root / str(PID + 5))) == []


# -- How often it is asked -----------------------------------------------------------------------------------


class Script:
    """Answers to ``find_users``, one after the other; asked once more than scripted fails."""

    def __init__(self, *answers: Users) -> None:
        self.left = list(answers)

    def __call__(self, path: str, numbers: frozenset[DeviceNumber]) -> Users:
        assert path
        assert numbers
        return self.left.pop(0)


NOBODY, SOMEBODY, UNREAD = Users(), Users((HOLDER,)), Users(unread=(HOLDER,))


@pytest.fixture
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_device, "_PAUSE_S", 0)


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize(
    "answers",
    [
        (NOBODY, NOBODY),
        (SOMEBODY, NOBODY, NOBODY),
        (NOBODY, SOMEBODY, NOBODY, NOBODY),
        (SOMEBODY, NOBODY, UNREAD, SOMEBODY, NOBODY, NOBODY),
    ],
)
def test_two_looks_in_a_row_find_nobody(answers: tuple[Users, ...]) -> None:
    """Unused is what was seen unused twice with nothing in between."""
    script = Script(*answers)
    check_unused(DEVICE, script)
    assert script.left == []


@pytest.mark.usefixtures("_no_pause")
@pytest.mark.parametrize(
    "answers",
    [
        (SOMEBODY,) * 4,
        (NOBODY, SOMEBODY) * 4,
        (UNREAD, UNREAD, UNREAD, SOMEBODY),
    ],
)
def test_seen_now_and_then_is_in_use(answers: tuple[Users, ...]) -> None:
    """Whoever is missed by every other look is named all the same."""
    with pytest.raises(AgentError, match=rf"is in use by db \(pid {PID}, root\)") as raised:
        check_unused(DEVICE, Script(*answers))
    assert raised.value.reason is Reason.DEVICE_BUSY


@pytest.mark.usefixtures("_no_pause")
def test_cannot_be_told_is_not_unused() -> None:
    """A process that may not be read ends the question with its name and the ways out."""
    with pytest.raises(AgentError, match=rf"cannot be told: what db \(pid {PID}, root\) has open") as raised:
        check_unused(DEVICE, Script(*(UNREAD,) * 4))
    assert raised.value.reason is Reason.DEVICE_BUSY
    assert "CAP_SYS_PTRACE" in str(raised.value.hint)
    assert "--force" in str(raised.value.hint)


@pytest.mark.usefixtures("_no_pause")
def test_processes_that_are_hidden_are_no_proof() -> None:
    """With hidepid and without the capability nobody can be ruled out."""

    def find(path: str, numbers: frozenset[DeviceNumber]) -> Users:
        assert path
        assert numbers
        raise PermissionError(errno.EACCES, "not all processes are shown", "/proc")

    with pytest.raises(AgentError, match="cannot be told: not all processes are shown in /proc"):
        check_unused(DEVICE, find)


# -- Leftovers -----------------------------------------------------------------------------------------------


def list_left_of_us(mount_id: int) -> tuple[Process, ...]:
    me = Process(os.getpid(), "pytest", "root")
    user = User(me, psutil.Process().create_time())
    return list_left((Leftover(mount_id, DeviceNumber(0, 1 << 20), (user,)),))


def test_closed_entry_does_not_let_go_of_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A descriptor that closes while a user of a lost mount is looked at does not end its use."""
    with (tmp_path / "file").open("w") as held:
        mount_id = next(
            one.read_mount_id()
            for one in list_descriptors(Path("/proc/self"))
            if one.number == str(held.fileno())
        )
        assert mount_id is not None
        listdir = os.listdir
        monkeypatch.setattr(os, "listdir", lambda path: ["1000000", *listdir(path)])
        assert len(list_left_of_us(mount_id)) == 1
    assert list_left_of_us(1 << 30) == ()


def test_user_that_cannot_be_read_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be told whether a user of a lost mount let go, it has not."""
    fail_listing(monkeypatch, Path(f"/proc/{os.getpid()}/fd"), errno.EMFILE)
    assert len(list_left_of_us(1 << 30)) == 1


def test_number_given_to_another_process_is_nobody() -> None:
    """A process ID that was given away since says nothing of the user it belonged to."""
    user = User(Process(os.getpid(), "db"), 0.0)
    left = Leftover(
        0, DeviceNumber(0, 1 << 20), (replace(user, links=frozenset({("cwd", str(Path.cwd()))})),)
    )
    assert list_left((left,)) == ()
