from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from agent.core.errors import InconclusiveError, ShortageError
from agent.core.model import DeviceNumber
from agent.node.mounts import namespaces
from agent.node.mounts.namespaces import find_mount_elsewhere, is_private

ROOT = "22 1 8:1 / / rw,relatime {}- ext4 /dev/sda1 rw\n"
DATA = "36 22 259:4 / /da\\040ta\\012 rw - xfs /dev/nvme1n1 rw\n"


def add_process(proc: Path, name: str, namespace: str | None, mountinfo: str = "") -> None:
    directory = proc / name
    (directory / "ns").mkdir(parents=True)
    if namespace is not None:
        (directory / "ns/mnt").symlink_to(f"mnt:[{namespace}]")
    (directory / "mountinfo").write_text(mountinfo)


SHARED = ROOT.format("shared:1 ")
NAMESPACES = {
    "the node's": ("1", "1", SHARED, SHARED, False),
    "its own": ("2", "1", ROOT.format(""), SHARED, True),
    "its own, which hears of the node's mounts": ("2", "1", ROOT.format("master:1 "), SHARED, True),
    "its own, shared with others": ("2", "1", ROOT.format("shared:9 "), SHARED, True),
    "a peer of the node's": ("2", "1", SHARED, SHARED, False),
    "not told": ("2", None, ROOT.format(""), "", None),
}


@pytest.mark.parametrize(
    ("own", "first", "own_mounts", "first_mounts", "is_alone"), NAMESPACES.values(), ids=NAMESPACES.keys()
)
def test_namespace_of_its_own_is_noticed(
    tmp_path: Path,
    own: str,
    first: str | None,
    own_mounts: str,
    first_mounts: str,
    *,
    is_alone: bool | None,
) -> None:
    """Mounts are seen outside where the namespace is the node's, or its root is a peer of the node's root."""
    add_process(tmp_path, "self", own, own_mounts)
    add_process(tmp_path, "1", first, first_mounts)
    assert is_private(tmp_path) is is_alone


def test_mount_of_a_container_is_found(tmp_path: Path) -> None:
    """In whatever namespace, by the device's number, and named so that it can be printed."""
    add_process(tmp_path, "self", "1", DATA)
    add_process(tmp_path, "1", "1", DATA)
    add_process(tmp_path, "40", None, DATA)
    numbers = frozenset({DeviceNumber(259, 4)})
    assert find_mount_elsewhere(numbers, tmp_path) is None
    add_process(tmp_path, "41", "2", SHARED + DATA)
    found = find_mount_elsewhere(numbers, tmp_path)
    assert found == "at /da ta? in the mount namespace of process 41"
    assert find_mount_elsewhere(frozenset({DeviceNumber(259, 5)}), tmp_path) is None


@pytest.mark.parametrize("shown", [None, ""], ids=["it has ended", "it has a root of its own"])
def test_mount_is_found_whatever_another_process_in_its_namespace_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str | None
) -> None:
    """One that ends, or sees a part of the namespace only, does not answer for those that see it whole."""
    add_process(tmp_path, "self", "1", SHARED)
    for name, root in (("41", "/chroot"), ("42", "/")):
        add_process(tmp_path, name, "2", SHARED + DATA)
        (tmp_path / name / "root").symlink_to(root)
    if shown is None:
        (tmp_path / "41/mountinfo").unlink()
    else:
        (tmp_path / "41/mountinfo").write_text(shown)
    monkeypatch.setattr(namespaces, "list_processes", lambda proc: (proc / "41", proc / "42"))
    assert find_mount_elsewhere(frozenset({DeviceNumber(259, 4)}), tmp_path) is not None


NUMBERS = frozenset({DeviceNumber(259, 4)})


def fail_link(monkeypatch: pytest.MonkeyPatch, link: Path, error: int) -> None:
    readlink = os.readlink

    def fail(path: Path) -> str:
        if Path(path) == link:
            raise OSError(error, os.strerror(error), str(path))
        return readlink(path)

    monkeypatch.setattr(os, "readlink", fail)


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """A process of another namespace, in which nothing is mounted, beside those of the node."""
    for name, namespace in (("self", "1"), ("1", "1"), ("41", "2")):
        add_process(tmp_path, name, namespace, SHARED)
        (tmp_path / name / "root").symlink_to("/")
    return tmp_path / "41"


@pytest.mark.parametrize("link", ["ns/mnt", "root"])
@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENOMEM])
def test_process_that_cannot_be_asked_is_not_without_a_mount(
    container: Path, monkeypatch: pytest.MonkeyPatch, link: str, error: int
) -> None:
    """What could not be looked at is told as that, and what the node ran out of as such."""
    fail_link(monkeypatch, container / link, error)
    with pytest.raises(InconclusiveError) as raised:
        find_mount_elsewhere(NUMBERS, container.parent)
    assert isinstance(raised.value, ShortageError) is (error in {errno.EMFILE, errno.ENOMEM})


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ESRCH, errno.EINVAL])
def test_process_that_ended_is_without_a_mount(
    container: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """It may end between any two questions, and then has nothing mounted."""
    fail_link(monkeypatch, container / "ns/mnt", error)
    assert find_mount_elsewhere(NUMBERS, container.parent) is None


def test_mounts_that_cannot_be_read_are_not_none(container: Path) -> None:
    """Whatever the kernel answers that is not the end of the process."""
    (container / "mountinfo").unlink()
    (container / "mountinfo").mkdir()
    with pytest.raises(InconclusiveError, match=f"cannot be told: Is a directory: {container}/mountinfo"):
        find_mount_elsewhere(NUMBERS, container.parent)


def test_hidden_processes_may_have_a_mount(container: Path) -> None:
    """Where not even the first process is shown, others may be hidden."""
    shutil.rmtree(container.parent / "1")
    with pytest.raises(InconclusiveError, match="not all processes are shown"):
        find_mount_elsewhere(NUMBERS, container.parent)


def test_first_process_that_is_shielded_has_no_mount_of_its_own(
    container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some systems shield it even from root: no volume is out of use for that."""
    fail_link(monkeypatch, container.parent / "1/ns/mnt", errno.EACCES)
    assert find_mount_elsewhere(NUMBERS, container.parent) is None
