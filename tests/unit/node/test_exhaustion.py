"""Where a table is full nothing was looked at: no refusal, no verdict, nothing gone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.core.errors import ShortageError
from agent.core.exhaustion import is_shortage
from agent.core.model import Device, DeviceNumber, Identity, VolumeId
from agent.node.content.blankness import ReadPlace, prove_blank, scan_places
from agent.node.content.recognize import recognize
from agent.node.device import links, usage_facts
from agent.node.device.open_device import verify_pin
from agent.node.filesystem import try_write
from agent.node.filesystem.directories import open_directory
from agent.node.sampling import sample
from agent.node.standins import files, loop_device
from agent.node.state.volume_records import read_machine_id
from tests.descriptors import used_up_descriptors

VOLUME = VolumeId("vol-0123456789abcdef0")
IDENTITY = Identity(VOLUME, "Amazon Elastic Block Store", "vol0123456789abcdef0")
SIZE_BYTES = 1 << 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """Give a file of zeros, open."""
    path = tmp_path / "zeros"
    path.touch()
    os.truncate(path, SIZE_BYTES)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


DEVICE = Device("/dev/nvme9n9", DeviceNumber(259, 99), IDENTITY, SIZE_BYTES)

QUESTIONS: dict[str, Callable[[int], object]] = {
    "is it blank": lambda fd: prove_blank(fd, SIZE_BYTES),
    "does it read": sample._probe,
    "what is on it": lambda fd: recognize(fd, DEVICE),
    "is it the same": lambda fd: verify_pin(fd, DEVICE, lambda _: IDENTITY),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_device_is_not_judged_by_what_the_node_ran_out_of(
    fd: int, question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of which nothing could be asked is neither foreign nor failing, and has not gone away."""

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("agent.node.content.recognize.find_signatures", fail)
    monkeypatch.setattr("agent.node.device.open_device.observe_device", fail)
    with used_up_descriptors(), pytest.raises(OSError, match="Too many open files") as caught:
        QUESTIONS[question](fd)
    assert is_shortage(caught.value)


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENFILE])
def test_read_for_which_memory_was_short_is_no_answer(fd: int, number: int) -> None:
    """A read that the node could not make says nothing of what it would have found."""

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        scan_places(fd, [ReadPlace(0, 4096)], fail)


def test_mounted_filesystem_is_not_blamed_for_a_full_table(tmp_path: Path) -> None:
    """One that cannot be tried with a file, for want of a descriptor, has refused nothing."""
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        with used_up_descriptors(), pytest.raises(OSError, match="Too many open files"):
            try_write._probe_write(fd)
    finally:
        os.close(fd)


def test_layer_of_an_overlay_that_could_not_be_asked_for_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system stands on is known whole, or not at all; a layer that is not there is none."""
    assert usage_facts._stat_number(tmp_path / "nowhere") is None

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(Path, "stat", fail)
    with pytest.raises(OSError, match="memory"):
        usage_facts._stat_number(tmp_path)


def test_directory_that_could_not_be_opened_is_not_refused(tmp_path: Path) -> None:
    """The way to a mount path is not blamed for a full table."""
    with (
        used_up_descriptors(),
        pytest.raises((ShortageError, OSError)) as caught,
        open_directory(str(tmp_path)),
    ):
        pass
    assert isinstance(caught.value, ShortageError) or is_shortage(caught.value)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_link_for_which_there_is_no_room_is_made_later(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link below ``/dev`` takes memory, and there may be none."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "symlink_to", fail)
    with pytest.raises(ShortageError):
        links.set_link(tmp_path, "by-id/x", "/dev/nvme1n1")


def test_machine_keeps_its_name_when_it_cannot_be_read(tmp_path: Path) -> None:
    """A machine without a name has none; one whose name could not be read is not taken for another."""
    assert read_machine_id(tmp_path / "none") == ""
    (tmp_path / "id").write_text("0123\n")
    with used_up_descriptors(), pytest.raises(OSError, match="Too many open files"):
        read_machine_id(tmp_path / "id")
    assert read_machine_id(tmp_path / "id") == "0123"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_stand_in_that_cannot_be_looked_at_is_not_detached(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop device whose file could not be asked for is not one whose file is gone."""
    detached: list[str] = []
    (tmp_path / f"{VOLUME}.img").write_bytes(bytes(512))
    item = loop_device.Loop("/dev/loop99", str(tmp_path / f"{VOLUME}.img"), 512)

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(loop_device, "list_loops", lambda: [item])
    monkeypatch.setattr(loop_device, "detach", lambda path, _: detached.append(path))
    monkeypatch.setattr("agent.node.standins.files.os.open", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        files.sync_directory(str(tmp_path))
    assert detached == []


def test_stand_in_that_cannot_be_attached_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several files the one that the kernel does not take is named, and the others are attached."""
    for number in range(3):
        (tmp_path / f"vol-0123456789abcdef{number}.img").write_bytes(bytes(512))

    def attach(path: Path) -> str:
        if "def1" in path.name:
            raise OSError(errno.EBUSY, "Device or resource busy")
        return f"/dev/{path.name}"

    monkeypatch.setattr(loop_device, "list_loops", list)
    monkeypatch.setattr(loop_device, "attach_file", attach)
    monkeypatch.setattr(loop_device, "make_partition_nodes", lambda _: None)
    synced = files.sync_directory(str(tmp_path))
    assert len(synced.changes) == 2
    assert ["def1" in problem for problem in synced.problems] == [True]
