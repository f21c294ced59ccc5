"""The guest's root image: a Debian with its own kernel, made from packages and the files in ``rootfs/``."""

from __future__ import annotations

import lzma
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.vm.guest.cache import hash_parts, hash_tree, make_once
from tests.vm.guest.initrd import build_initrd
from tests.vm.guest.settings import CACHE, DEBIAN_MIRROR
from tests.vm.guest.tools import run_tool

HERE = Path(__file__).parent
RELEASE = "bookworm"
"""Debian 12; another release, such as "trixie", may be asked for."""
PACKAGES = (
    *("linux-image-amd64", "busybox-static", "zstd", "kmod"),
    *("systemd", "systemd-sysv", "udev", "dbus", "procps", "psmisc", "iproute2"),
    *("python3", "python3-venv"),
    *("util-linux", "fdisk", "gdisk", "parted", "nvme-cli", "dmsetup", "lvm2", "mdadm", "cryptsetup-bin"),
    *("e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "attr", "acl"),
    *("fio", "mosquitto", "mosquitto-clients"),
)
# No test reads them, and a small image is built, copied and cached sooner.
LEFT_OUT = ("doc", "man", "info", "locale", "i18n", "bash-completion")
# Of the kernel's drivers only those for disks and for what the virtual machine is made of: udev loads all
# that it finds a device for, and each costs an emulated processor a moment.
DRIVERS = (
    *(
        "block",
        "char/hw_random",
        "char/virtio_console.ko",
        "cdrom",
        "dax",
        "md",
        "nvme",
        "nvdimm",
        "pci",
        "scsi",
    ),
    *(
        "target",
        "virtio",
        "net/dummy.ko",
        "net/tun.ko",
        "net/veth.ko",
        "net/virtio_net.ko",
        "net/net_failover.ko",
    ),
)
MODULES = ("/lib/modules/*/kernel/drivers", "/usr/lib/modules/*/kernel/drivers")
# What a test machine has no use for: waiting for a person, a mail, a network or the small hours, and what
# costs an emulated processor seconds at every boot.
MASKED_UNITS = (
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "fstrim.timer",
        "e2scrub_all.timer",
    ),
    *("e2scrub_reap.service", "mdcheck_start.timer", "mdcheck_continue.timer", "mdmonitor-oneshot.timer"),
    *("mdmonitor.service", "mosquitto.service", "getty@tty1.service", "nvmf-autoconnect.service"),
    *("nvmefc-boot-connections.service", "lvm2-monitor.service", "lvm2-lvmpolld.socket", "dm-event.socket"),
    *("uuidd.socket", "systemd-logind.service", "systemd-pstore.service", "systemd-update-utmp.service"),
    *("systemd-update-utmp-runlevel.service", "systemd-random-seed.service", "dev-hugepages.mount"),
    *("dev-mqueue.mount", "sys-kernel-tracing.mount", "modprobe@drm.service", "modprobe@efi_pstore.service"),
    *("modprobe@fuse.service", "sys-fs-fuse-connections.mount", "systemd-binfmt.service"),
    *("systemd-ask-password-console.path", "systemd-ask-password-wall.path", "sys-kernel-debug.mount"),
)
MASKED_GENERATORS = (
    *("bless-boot", "cryptsetup", "debug", "getty", "gpt-auto", "hibernate-resume", "integritysetup"),
    *("rc-local", "run", "system-update", "sysv", "veritysetup"),
)
IMAGE_BYTES = 4 << 30
XZ_MAGIC = b"\xfd7zXZ\0"


@dataclass(frozen=True)
class Image:
    """A root image ready to boot, and the tree that it was made from."""

    directory: Path

    @property
    def disk(self) -> Path:
        """The root filesystem, raw and sparse; guests boot from overlays and never write to it."""
        return self.directory / "root.img"

    @property
    def kernel(self) -> Path:
        """The guest's kernel, unpacked."""
        return self.directory / "vmlinux"

    @property
    def initrd(self) -> Path:
        """The guest's initial root."""
        return self.directory / "initrd.img"

    @property
    def tree(self) -> Path:
        """The root filesystem as a directory, to run the guest's own Python in without booting it."""
        return self.directory / "tree"

    @property
    def key(self) -> str:
        """What tells this image from others."""
        return self.directory.name.removeprefix("image-")


def image_key(release: str) -> str:
    """Return the hash of everything that decides what is in the image."""
    sources = [(HERE / name).read_bytes() for name in ("image.py", "initrd.py", "command_server.py")]
    return hash_parts([release, *sources, hash_tree(HERE / "rootfs")])


def find_image(release: str = RELEASE) -> Image | None:
    """Return the image that the present recipe makes, if it was made before."""
    directory = CACHE / f"{image_kind(release)}-{image_key(release)}"
    return Image(directory) if directory.is_dir() else None


def get_image(release: str = RELEASE) -> Image:
    """Return the root image, built first when its recipe changed: a few minutes and some 1.5 GB."""
    return Image(make_once(image_kind(release), image_key(release), lambda work: build_image(work, release)))


def image_kind(release: str) -> str:
    """Return the name under which the cache keeps its images, apart from those of other releases."""
    return "image" if release == RELEASE else f"{release}-image"


def build_image(directory: Path, release: str) -> None:
    """Make tree, disk, kernel and initrd in an empty directory."""
    image = Image(directory)
    overlay = directory / "overlay"
    shutil.copytree(HERE / "rootfs", overlay)
    server = overlay / "usr/lib/guest/command_server.py"
    server.parent.mkdir(parents=True)
    shutil.copy(HERE / "command_server.py", server)
    make_tree(image.tree, overlay, release)
    image.kernel.write_bytes(unpack_kernel(next((image.tree / "boot").glob("vmlinuz-*")).read_bytes()))
    build_initrd(image.initrd, image.tree)
    make_filesystem(image.disk, image.tree, IMAGE_BYTES, label="guest-root")
    shutil.rmtree(overlay)


def make_tree(tree: Path, overlay: Path, release: str) -> None:
    """Install the packages and the harness's own files into a directory."""
    configure = (
        "systemctl enable guest-command.service",
        f"systemctl mask {' '.join(MASKED_UNITS)}",
        "mkdir -p /etc/systemd/system-generators",
        *(
            f"ln -s /dev/null /etc/systemd/system-generators/systemd-{name}-generator"
            for name in MASKED_GENERATORS
        ),
        "passwd --delete root",
        "echo guest > /etc/hostname",
        "echo 127.0.0.1 localhost guest > /etc/hosts",
        "mkdir -p /scratch /opt/ebs-agent",
        # Or systemd brings the caches of a new /usr up to date at every boot of a fresh guest.
        "touch /etc/.updated /var/.updated",
    )
    run_tool(
        [
            *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
            # Packages have moved from /lib to where it leads.
            *(f"--dpkgopt=path-exclude={modules}/*" for modules in MODULES),
            *(f"--dpkgopt=path-include={modules}/{name}*" for modules in MODULES for name in DRIVERS),
            # Before the packages, some of which ask it how they are to be installed.
            "--dpkgopt=force-confold",
            f"--essential-hook=sync-in {overlay} /",
            *(f'--customize-hook=chroot "$1" sh -euc "{line}"' for line in configure),
            *(release, tree),
            *([DEBIAN_MIRROR] if DEBIAN_MIRROR else []),
        ],
        timeout_s=1800,
    )


def unpack_kernel(compressed: bytes) -> bytes:
    """Return the ELF kernel inside a bzImage, which QEMU boots by its PVH entry, or the image as it is.

    Unpacking it here takes a second; an emulated processor takes three, at every boot. Offsets: the x86 boot
    protocol, Documentation/arch/x86/boot.rst.
    """
    setup_sectors = compressed[0x1F1]
    offset, length = struct.unpack_from("<II", compressed, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = compressed[start : start + length]
    if not payload.startswith(XZ_MAGIC):
        return compressed  # trixie's is of a kind that Python cannot unpack
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ).decompress(payload)


def make_filesystem(disk: Path, tree: Path, size_bytes: int, *, label: str) -> None:
    """Make an ext4 image that holds a directory's content, needing neither loop devices nor mounts."""
    with disk.open("wb") as file:
        file.truncate(size_bytes)
    run_tool(
        ["mkfs.ext4", "-q", "-F", "-L", label, "-m", "0", "-O", "^metadata_csum_seed", "-d", tree, disk],
        timeout_s=300,
    )
