"""The guest's initial root: busybox, the modules that find the root disk, and an init of ten lines.

The distribution's own does more, in eight seconds of an emulated processor; nothing of that is needed here.
"""

from __future__ import annotations

import gzip
import lzma
import stat
from collections.abc import Iterator
from pathlib import Path

MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic")
# systemd would wait for each disk by udev; here they are there already.
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
for module in $(cat /modules/order); do
    insmod /modules/$module || echo "$module cannot be loaded"
done
mount_disk() {
    until [ -b /dev/$1 ]; do usleep 10000; done
    mount -t ext4 -o rw,noatime /dev/$1 $2 || exec sh
}
mount_disk vda /root
for word in $(cat /proc/cmdline); do
    case $word in guest.mount=*)
        mount=${word#guest.mount=}
        mount_disk ${mount%%:*} /root${mount#*:}
    esac
done
umount /proc
exec switch_root /root /sbin/init "$@"
"""


def build_initrd(path: Path, tree: Path) -> None:
    """Write the initial root for the kernel that is installed in a tree."""
    modules = find_modules(next((tree / "usr/lib/modules").iterdir()))
    order = " ".join(module.name.removesuffix(".xz") for module in modules)
    archive = [
        *(pack_entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "modules", "proc", "root")),
        pack_entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        pack_entry("bin/busybox", stat.S_IFREG | 0o755, (tree / "bin/busybox").read_bytes()),
        pack_entry("init", stat.S_IFREG | 0o755, INIT.encode()),
        pack_entry("modules/order", stat.S_IFREG | 0o644, order.encode()),
        *(
            pack_entry(
                f"modules/{module.name.removesuffix('.xz')}", stat.S_IFREG | 0o644, read_module(module)
            )
            for module in modules
        ),
        pack_entry("TRAILER!!!", 0),
    ]
    path.write_bytes(gzip.compress(b"".join(archive), mtime=0))


def find_modules(directory: Path) -> list[Path]:
    """Return the files of the modules and of all they depend on, in the order in which to load them."""
    needs: dict[str, list[str]] = {}
    for line in (directory / "modules.dep").read_text(encoding="ascii").splitlines():
        path, _, dependencies = line.partition(":")
        needs[path] = dependencies.split()
    by_name = {Path(path).name.partition(".")[0].replace("-", "_"): path for path in needs}
    built_in = {
        Path(path).stem.replace("-", "_") for path in (directory / "modules.builtin").read_text().split()
    }
    found: dict[str, None] = {}
    for name in MODULES:
        if name not in built_in:
            found |= dict.fromkeys(list_in_order(by_name[name], needs))
    return [directory / path for path in found]


def read_module(path: Path) -> bytes:
    """Return a module as busybox can load it."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def list_in_order(path: str, needs: dict[str, list[str]]) -> Iterator[str]:
    """Yield a module after those that it needs."""
    # depmod lists what a module needs with the deepest last.
    yield from reversed(needs[path])
    yield path


def pack_entry(name: str, mode: int, content: bytes = b"", *, device: tuple[int, int] = (0, 0)) -> bytes:
    """Return one entry of a cpio archive of the kind that the kernel unpacks ("newc", see cpio(5))."""
    encoded = name.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, filesystem's device, own device, length of name, checksum
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    return pad(header + encoded) + pad(content)


def pad(block: bytes) -> bytes:
    """Fill up to a multiple of four bytes."""
    return block + bytes(-len(block) % 4)
