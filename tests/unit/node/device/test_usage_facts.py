from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.model import DeviceNumber, Mount
from agent.core.replace import replace
from agent.node.device.usage_facts import gather_for_look, gather_surroundings
from agent.node.filesystem import format_guard
from agent.node.mounts import own_mounts
from agent.node.volume_session import recheck


class Machine:
    """A root directory with as much of sysfs, procfs and /dev as names block devices."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._class = root / "sys/class/block"
        for directory in (self._class, root / "proc", root / "dev/mapper", root / "sys/fs/btrfs"):
            directory.mkdir(parents=True)
        self.set_swaps()
        self._table = root / "proc/partitions"
        self._table.write_text("major minor  #blocks  name\n\n", "ascii")

    def add_disk(self, name: str, number: str) -> Path:
        return self._add(self.root / "sys/devices" / name, number)

    def add_partition(self, disk: str, name: str, number: str) -> Path:
        node = self._add(self.root / "sys/devices" / disk / name, number)
        (node / "partition").write_text("1\n", "ascii")
        return node

    def add_mapped(self, name: str, number: str, uuid: str, label: str, *beneath: str) -> None:
        node = self.add_disk(name, number)
        (node / "dm").mkdir()
        (node / "dm/uuid").write_text(f"{uuid}\n", "ascii")
        (node / "dm/name").write_text(f"{label}\n", "ascii")
        (self.root / "dev/mapper" / label).symlink_to(f"../{name}")
        self.stack(name, *beneath)

    def stack(self, name: str, *beneath: str) -> None:
        slaves = self._class / name / "slaves"
        slaves.mkdir()
        for lower in beneath:
            (slaves / lower).symlink_to((self._class / lower).resolve())

    def add_loop(self, name: str, number: str, backing: str) -> None:
        node = self.add_disk(name, number)
        (node / "loop").mkdir()
        (node / "loop/backing_file").write_text(f"{backing}\n", "ascii")
        self.add_to_table(name, number)

    def add_btrfs(self, uuid: str, *members: str) -> None:
        devices = self.root / "sys/fs/btrfs" / uuid / "devices"
        devices.mkdir(parents=True)
        for member in members:
            (devices / member).symlink_to((self._class / member).resolve())

    def set_swaps(self, *lines: str) -> None:
        head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        (self.root / "proc/swaps").write_text(head + "".join(f"{line}\n" for line in lines), "ascii")

    def add_to_table(self, name: str, number: str) -> None:
        major, minor = number.split(":")
        with self._table.open("a", encoding="ascii") as table:
            table.write(f"{major:>4} {minor:>7} {1024:>10} {name}\n")

    def _add(self, node: Path, number: str) -> Path:
        node.mkdir(parents=True)
        (node / "dev").write_text(f"{number}\n", "ascii")
        (self._class / node.name).symlink_to(node)
        return node


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "root")
    made.add_disk("nvme0n1", "259:0")
    made.add_partition("nvme0n1", "nvme0n1p1", "259:1")
    made.add_disk("nvme1n1", "259:2")
    return made


def make_mount(path: str, source: str, fs_type: str = "ext4", *super_options: str) -> Mount:
    return Mount(
        7, 1, DeviceNumber(0, 50), "/", path, frozenset({"rw"}), fs_type, source, frozenset(super_options)
    )


DISK, PART, SECOND = DeviceNumber(259, 0), DeviceNumber(259, 1), DeviceNumber(259, 2)


def test_partition_stands_on_its_disk(machine: Machine) -> None:
    """A partition leads to its disk, and a disk to itself."""
    found = gather_surroundings((), machine.root)
    assert found.closure({PART}) == {PART, DISK}
    assert found.closure({SECOND}) == {SECOND}


def test_stack_of_encryption_volume_group_and_array(machine: Machine) -> None:
    """LVM on LUKS on a RAID of a partition and a disk leads down to both, and each says what it is."""
    array = machine.add_disk("md0", "9:0")
    (array / "md").mkdir()
    machine.stack("md0", "nvme0n1p1", "nvme1n1")
    machine.add_mapped("dm-0", "252:0", "CRYPT-LUKS2-0a1b-root", "root_crypt", "md0")
    machine.add_mapped("dm-1", "252:1", "LVM-0a1b", "vg-root", "dm-0")
    found = gather_surroundings((), machine.root)
    assert found.closure({DeviceNumber(252, 1)}) >= {DISK, PART, SECOND}
    assert found.blocks[DeviceNumber(9, 0)].what == "a RAID array"
    assert found.blocks[DeviceNumber(252, 0)].what == "an encrypted volume root_crypt"
    assert found.blocks[DeviceNumber(252, 1)].what == "an LVM volume vg-root"


def test_swap_on_devices_and_links(machine: Machine) -> None:
    """Swap is found by device, by a link to one, and through the escapes the kernel writes."""
    machine.add_mapped("dm-0", "252:0", "LVM-1", "vg-swap one", "nvme1n1")
    machine.set_swaps(
        "/dev/nvme0n1p1 partition 8 0 -2", "/dev/mapper/vg-swap\\040one partition 8 0 -3", "/gone file 8 0 -4"
    )
    found = gather_surroundings((), machine.root)
    assert found.swaps == {PART, DeviceNumber(252, 0)}


def test_swap_file_is_its_filesystems_matter(machine: Machine) -> None:
    """A swap file is no claim on a device, and asking for it could wait for the filesystem it is on."""
    (machine.root / "swapfile").touch()
    machine.set_swaps("/swapfile file 8 0 -2", "/data/swap\\040(deleted) file 8 0 -3")
    assert gather_surroundings((), machine.root).swaps == frozenset()


def test_loop_device_on_a_block_device(machine: Machine) -> None:
    """A loop device on a disk holds it; one on a file holds no disk."""
    machine.add_loop("loop0", "7:0", "/dev/nvme1n1")
    machine.add_loop("loop1", "7:1", "/images/a.img")
    found = gather_surroundings((), machine.root)
    assert dict(found.loops) == {SECOND: "loop0"}


def test_btrfs_root_is_found_by_source_and_members(machine: Machine) -> None:
    """A btrfs mount with an invented number leads to its source and its other devices."""
    machine.add_btrfs("5f3a", "nvme0n1p1", "nvme1n1")
    (machine.root / "sys/fs/btrfs/features").mkdir()
    mount = make_mount("/", "/dev/nvme0n1p1", "btrfs")
    found = gather_surroundings((mount,), machine.root)
    assert found.devices_of(mount) == {PART, SECOND}
    assert found.pools == (frozenset({PART, SECOND}),)


def test_btrfs_whose_source_is_gone_is_found_by_its_other_devices(machine: Machine) -> None:
    """The kernel goes on naming a device that was pulled among those of the filesystem."""
    machine.add_btrfs("5f3a", "nvme9n1", "nvme1n1")
    machine.add_btrfs("6f3a", "nvme8n1")
    mount, dead = make_mount("/data", "/dev/nvme9n1", "btrfs"), make_mount("/dead", "/dev/nvme8n1", "btrfs")
    dead = replace(dead, mount_id=8)
    found = gather_surroundings((mount, dead), machine.root)
    assert found.sources == {mount.mount_id: {SECOND}}
    assert found.pools == (frozenset({SECOND}),)


def test_overlay_root_is_found_by_its_layers(machine: Machine) -> None:
    """An overlay as root stands on its layers' filesystems; a container's is not looked into."""
    (machine.root / "lower").mkdir()
    options = ("lowerdir=/lower:/nowhere", "upperdir=/lower")
    root = make_mount("/", "overlay", "overlay", *options)
    found = gather_surroundings((root,), machine.root)
    assert len(found.devices_of(root)) == 1
    container = make_mount("/run/box", "overlay", "overlay", *options)
    found = gather_surroundings((container,), machine.root)
    assert found.devices_of(container) == {container.device_number}


def test_without_sysfs_nothing_is_known_to_be_free(tmp_path: Path) -> None:
    """Where the facts cannot be read, that is an error and no empty answer."""
    with pytest.raises(FileNotFoundError):
        gather_surroundings((), tmp_path)


def test_this_machine(tmp_path: Path) -> None:
    """The real sysfs and procfs are read without a complaint, and every stack ends."""
    assert tmp_path.exists()
    found = gather_surroundings(())
    assert found.closure(found.blocks) >= found.blocks.keys()


def test_loop_devices_without_a_file_are_left_out(machine: Machine) -> None:
    """A loop device that the kernel's table leaves out has no size and stands on nothing."""
    machine.add_disk("loop7", "7:7")
    assert DeviceNumber(7, 7) not in gather_surroundings((), machine.root).blocks


def test_numbers_of_the_kernel_s_table_are_those_of_sysfs(machine: Machine) -> None:
    """A device in the table, whose name has a slash where sysfs has an exclamation mark, is found by it."""
    machine.add_disk("cciss!c0d0", "104:0")
    machine.add_to_table("cciss/c0d0", "104:0")
    machine.add_to_table("nvme0n1", "259:0")
    blocks = gather_surroundings((), machine.root).blocks
    assert blocks[DeviceNumber(104, 0)].name == "cciss!c0d0"
    assert blocks[DISK].name == "nvme0n1"


def test_unreadable_table_is_no_answer(machine: Machine) -> None:
    """Without the kernel's table of block devices nothing is known to be free."""
    (machine.root / "proc/partitions").unlink()
    with pytest.raises(OSError, match="partitions"):
        gather_surroundings((), machine.root)


def announce(machine: Machine) -> None:
    """Number an announcement, as the kernel does."""
    path = machine.root / "sys/kernel/uevent_seqnum"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{int(path.read_text('ascii')) + 1 if path.exists() else 1}\n", "ascii")


def build_array(machine: Machine) -> None:
    (machine.add_disk("md0", "9:0") / "md").mkdir()
    machine.stack("md0", "nvme0n1p1", "nvme1n1")


ANNOUNCED: dict[str, Callable[[Machine], object]] = {
    "a disk": lambda machine: machine.add_disk("nvme2n1", "259:8"),
    "a partition": lambda machine: machine.add_partition("nvme1n1", "nvme1n1p1", "259:9"),
    "a mapped device": lambda machine: machine.add_mapped("dm-0", "252:0", "LVM-1", "vg-swap", "nvme1n1"),
    "an array": build_array,
    "a loop device on a disk": lambda machine: machine.add_loop("loop0", "7:0", "/dev/nvme1n1"),
    "a loop device on a file": lambda machine: machine.add_loop("loop1", "7:1", "/images/a.img"),
    "a disk gone": lambda machine: (machine.root / "sys/class/block/nvme1n1").unlink(),
}
UNANNOUNCED: dict[str, Callable[[Machine], object]] = {
    "swap": lambda machine: machine.set_swaps("/dev/nvme0n1p1 partition 8 0 -2"),
    "a pool": lambda machine: machine.add_btrfs("5f3a", "nvme0n1p1", "nvme1n1"),
    "a loop device filled without a word": ANNOUNCED["a loop device on a disk"],
}


@pytest.mark.parametrize("what", ANNOUNCED)
def test_look_finds_what_is_announced(machine: Machine, what: str) -> None:
    """Looks in a row find what a fresh one would, whatever has come or gone between them."""
    announce(machine)
    before = gather_for_look((), machine.root, lambda: 1.0)
    ANNOUNCED[what](machine)
    announce(machine)
    found = gather_for_look((), machine.root, lambda: 1.0)
    assert found == gather_surroundings((), machine.root)
    assert found != before


@pytest.mark.parametrize("what", UNANNOUNCED)
def test_look_finds_what_nobody_announces(machine: Machine, what: str) -> None:
    """What the kernel need not say is read each time."""
    announce(machine)
    before = gather_for_look((), machine.root, lambda: 1.0)
    UNANNOUNCED[what](machine)
    found = gather_for_look((), machine.root, lambda: 1.0)
    assert found == gather_surroundings((), machine.root)
    assert found != before


@given(st.permutations([*ANNOUNCED, "swap", "a pool"]))
def test_looks_in_a_row_are_fresh_ones(names: list[str]) -> None:
    """In whatever order devices come and go, each look finds what one that remembers nothing does."""
    with TemporaryDirectory() as directory:
        machine = Machine(Path(directory) / "root")
        machine.add_disk("nvme0n1", "259:0")
        machine.add_partition("nvme0n1", "nvme0n1p1", "259:1")
        machine.add_disk("nvme1n1", "259:2")
        mount = make_mount("/", "/dev/nvme0n1p1", "btrfs")
        announce(machine)
        for name in names:
            (UNANNOUNCED | ANNOUNCED)[name](machine)
            if name in ANNOUNCED:
                announce(machine)
            assert gather_for_look((mount,), machine.root) == gather_surroundings((mount,), machine.root)


def test_look_reads_all_devices_once_for_those_after_it(machine: Machine) -> None:
    """As long as nothing is announced no device is read again; for some seconds, and no longer."""
    announce(machine)
    before = gather_for_look((), machine.root, lambda: 1.0)
    machine.add_disk("nvme9n1", "259:20")  # without a word, as no kernel does it
    assert gather_for_look((), machine.root, lambda: 5.9) == before
    assert gather_for_look((), machine.root, lambda: 6.0) == gather_surroundings((), machine.root)


def test_kernel_that_numbers_nothing_has_all_read_each_time(machine: Machine) -> None:
    """Where announcements bear no numbers nothing is remembered."""
    before = gather_for_look((), machine.root, lambda: 1.0)
    machine.add_disk("nvme9n1", "259:20")
    assert gather_for_look((), machine.root, lambda: 1.0) != before


@pytest.mark.parametrize("module", [format_guard, recheck, own_mounts])
def test_whoever_acts_reads_afresh(module: ModuleType) -> None:
    """What decides right before a deed remembers nothing."""
    assert module.gather_surroundings is gather_surroundings
    assert not hasattr(module, "gather_for_look")
