"""Raw exposure of volumes: stable links, ownership of device nodes, and tuning of the block layer.

A link is only ever replaced or removed where it is a symbolic link of root's; anything else in its place is
refused and left alone. Tuning writes to sysfs, which may wait for the device: for workers.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from agent.core.errors import AgentError, RefusedError, VanishedError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import DeviceNumber, Reason, RootInode, Tuning
from agent.node.kernel.sysfs import SYSFS, locate, read_attribute, read_integer

BY_ID = "by-id"

_LINK_NAME = re.compile(r"(?:by-id/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_TEMPORARY_PREFIX = ".new-"


# -- Stable links --------------------------------------------------------------------------------------------


def list_links(directory: Path) -> dict[str, str]:
    """Return the links below ``directory`` and what each leads to: ``by-id/vol-…`` and policy names."""
    links: dict[str, str] = {}
    for prefix, place in (("", directory), (f"{BY_ID}/", directory / BY_ID)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as entries:
            for entry in entries:
                if entry.is_symlink() and not entry.name.startswith(_TEMPORARY_PREFIX):
                    links[f"{prefix}{entry.name}"] = os.readlink(entry.path)  # noqa: PTH115 (a DirEntry)
    return links


def find_links_to(directory: Path, device_path: str) -> frozenset[str]:
    """Return the names of the links that lead to a device node."""
    return frozenset(name for name, target in list_links(directory).items() if target == device_path)


def set_link(directory: Path, name: str, device_path: str) -> None:
    """Make ``name`` below ``directory`` lead to a device node, in one step that nobody sees half done."""
    if not _LINK_NAME.fullmatch(name) or name == BY_ID:
        raise RefusedError(f"{name!r} cannot be the name of a link.", retryable=False)
    link = directory / name
    link.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        with contextlib.suppress(FileExistsError):
            link.symlink_to(device_path)
            return
        _check_replaceable(link)
        temporary = link.with_name(f"{_TEMPORARY_PREFIX}{link.name}")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        temporary.symlink_to(device_path)
        temporary.rename(link)
    except OSError as error:
        if is_shortage(error, writes=True):
            raise explain_shortage(f"The link {link} could not be made", error) from error
        raise AgentError(
            f"The link {link} could not be made: {error.strerror}.", reason=Reason.STEP_FAILED
        ) from error


def remove_links(directory: Path, live: Collection[str]) -> list[str]:
    """Remove every link below ``directory`` whose name is not in ``live``; return the names removed.

    One in ``live`` that leads elsewhere stays: it is :func:`set_link` that brings it up to date.
    """
    removed: list[str] = []
    for name in list_links(directory):
        if name not in live:
            link = directory / name
            with contextlib.suppress(RefusedError, FileNotFoundError):
                _check_replaceable(link)
                link.unlink()
                removed.append(name)
    return removed


def _check_replaceable(link: Path) -> None:
    try:
        status = link.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISLNK(status.st_mode) or status.st_uid not in {0, os.geteuid()}:
        raise RefusedError(
            f"{link} is not a link of the agent's and is left alone.",
            hint=f"Find out what made it, and remove it: ls -ld {shlex.quote(str(link))}",
            reason=Reason.PATH_IN_USE,
        )


# -- Device nodes --------------------------------------------------------------------------------------------


def read_node_owner(path: str, device_number: DeviceNumber) -> RootInode:
    """Return owner, group and permission bits of a device's node."""
    with _open_node(path, device_number) as fd:
        status = os.fstat(fd)
    return RootInode(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def set_node_owner(
    path: str, device_number: DeviceNumber, uid: int | None, gid: int | None, mode: int | None
) -> None:
    """Give a device's node its owner, group and permission bits; None leaves one as it is.

    VanishedError where the node at ``path`` is not of the device ``device_number``. The device is not opened.
    """
    with _open_node(path, device_number) as fd:
        # An O_PATH descriptor takes no fchown, but its link in /proc leads to exactly this node.
        node = f"/proc/self/fd/{fd}"
        if uid is not None or gid is not None:
            os.chown(node, -1 if uid is None else uid, -1 if gid is None else gid)
        if mode is not None:
            os.chmod(node, mode)  # noqa: PTH101


@contextlib.contextmanager
def _open_node(path: str, device_number: DeviceNumber) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise VanishedError(f"The device node {path} is gone.") from error
    try:
        status = os.fstat(fd)
        number = DeviceNumber(os.major(status.st_rdev), os.minor(status.st_rdev))
        if not stat.S_ISBLK(status.st_mode) or number != device_number:
            raise VanishedError(
                f"The node {path} is not of the block device {device_number} any more.",
                hint="Devices were renumbered meanwhile; the next look finds the volume again.",
            )
        yield fd
    finally:
        os.close(fd)


# -- Tuning --------------------------------------------------------------------------------------------------


def read_tuning(device_number: DeviceNumber, sysfs: Path = SYSFS) -> Tuning:
    """Return the read-ahead and the scheduler of a whole disk; None for what its driver does not have."""
    queue = f"{locate(device_number, sysfs)}/queue"
    read_ahead_kib = read_integer(f"{queue}/read_ahead_kb")
    scheduler = parse_scheduler(read_attribute(f"{queue}/scheduler") or "")
    return Tuning(None if read_ahead_kib is None else read_ahead_kib * 1024, scheduler)


def parse_scheduler(text: str) -> str | None:
    """Return the chosen one of ``[none] mq-deadline``."""
    chosen = re.search(r"\[([^\]]+)\]", text)
    return chosen[1] if chosen else None


def set_tuning(
    device_number: DeviceNumber,
    read_ahead_bytes: int | None,
    scheduler: str | None,
    sysfs: Path = SYSFS,
) -> None:
    """Set the read-ahead and the scheduler of a whole disk; None leaves one as it is."""
    queue = Path(locate(device_number, sysfs), "queue")
    if read_ahead_bytes is not None:
        _write_setting(queue / "read_ahead_kb", str(read_ahead_bytes // 1024))
    if scheduler is not None:
        _write_setting(queue / "scheduler", scheduler)


def _write_setting(path: Path, value: str) -> None:
    try:
        # Not created: where sysfs does not have it, the device is gone or its driver cannot.
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        hint = None
        if path.name == "scheduler" and error.errno == errno.EINVAL:
            with contextlib.suppress(OSError):
                known = path.read_text(encoding="ascii").replace("[", "").replace("]", "").split()
                hint = f"The kernel knows these here: {', '.join(known)}."
        raise AgentError(
            f"{path} did not take {value!r}: {error.strerror}.", hint=hint, reason=Reason.STEP_FAILED
        ) from error
