"""Asks libblkid what it recognises, on an open descriptor: every signature, not the first or the likeliest.

The library rather than ``blkid``, because the command's exit status 2 means "nothing", "could not read" and
"several" alike. A probe that fails raises OSError here and is never an empty answer.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from agent.node.kernel.sysfs import SECTOR_BYTES

_SUBLKS_FLAGS = 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 9
"""LABEL, UUID, TYPE, SECTYPE, USAGE, VERSION, MAGIC. Without BADCSUM: what fails its checksum is no match
here, and the proof of blankness finds its bytes."""
_PARTS_FLAGS = 1 << 1 | 1 << 2 | 1 << 3
"""FORCE_GPT (believe a GPT behind a broken protective MBR), ENTRY_DETAILS, MAGIC."""
_MAX_MATCHES = 64

_FOUND, _NOTHING = 0, 1


class Signature(Struct, frozen=True):
    """One thing libblkid recognised."""

    type: str
    """``ext4``, ``LVM2_member``, ``gpt``…"""
    usage: str
    """``filesystem``, ``raid``, ``crypto``, ``other``, or ``table`` for a partition table."""
    uuid: str | None = None
    label: str | None = None


class Region(Struct, frozen=True):
    """A partition as its table has it."""

    number: int
    start_bytes: int
    size_bytes: int


class LibraryMissingError(OSError):
    """libblkid cannot be loaded, so nothing can be known about any device."""


def list_signatures(fd: int, offset_bytes: int = 0, size_bytes: int = 0) -> list[Signature]:
    """Return every signature on the device open at ``fd`` or a stretch of it (``size_bytes`` 0: to its end).

    Raises OSError where any probe failed.
    """
    with _open_probe(fd, offset_bytes, size_bytes) as (lib, probe):
        _enable(lib, probe)
        found: list[Signature] = []
        for _ in range(_MAX_MATCHES):
            ctypes.set_errno(0)
            result = lib.blkid_do_probe(probe)
            # Some probers take a failed read for "not mine"; the error number tells.
            if result == _NOTHING and ctypes.get_errno() not in {errno.EIO, errno.ENXIO, errno.ENODEV}:
                return found
            if result != _FOUND:
                raise _make_error("probing")
            found.append(_read_signature(lib, probe))
        raise OSError(errno.ELOOP, "libblkid finds signatures without end")


def list_regions(fd: int) -> list[Region]:
    """Return the partitions of the table on the device open at ``fd``; empty without a table."""
    with _open_probe(fd, 0, 0) as (lib, probe):
        _check(lib.blkid_probe_enable_partitions(probe, 1), "enabling the partition probe")
        _check(lib.blkid_probe_set_partitions_flags(probe, _PARTS_FLAGS), "setting up the partition probe")
        ctypes.set_errno(0)
        table = lib.blkid_probe_get_partitions(probe)
        if not table:
            if ctypes.get_errno() in {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ENOMEM}:
                raise _make_error("reading the partition table")
            return []
        regions = []
        for index in range(lib.blkid_partlist_numof_partitions(table)):
            partition = lib.blkid_partlist_get_partition(table, index)
            regions.append(
                Region(
                    number=lib.blkid_partition_get_partno(partition),
                    start_bytes=lib.blkid_partition_get_start(partition) * SECTOR_BYTES,
                    size_bytes=lib.blkid_partition_get_size(partition) * SECTOR_BYTES,
                )
            )
        return regions


def _enable(lib: ctypes.CDLL, probe: int) -> None:
    _check(lib.blkid_probe_enable_superblocks(probe, 1), "enabling the superblock probe")
    _check(lib.blkid_probe_set_superblocks_flags(probe, _SUBLKS_FLAGS), "setting up the superblock probe")
    _check(lib.blkid_probe_enable_partitions(probe, 1), "enabling the partition probe")
    _check(lib.blkid_probe_set_partitions_flags(probe, _PARTS_FLAGS), "setting up the partition probe")


def _read_signature(lib: ctypes.CDLL, probe: int) -> Signature:
    table = _lookup(lib, probe, b"PTTYPE")
    if table is not None:
        return Signature(type=table, usage="table", uuid=_lookup(lib, probe, b"PTUUID"))
    return Signature(
        type=_lookup(lib, probe, b"TYPE") or "unknown",
        usage=_lookup(lib, probe, b"USAGE") or "other",
        uuid=_lookup(lib, probe, b"UUID"),
        label=_lookup(lib, probe, b"LABEL"),
    )


def _lookup(lib: ctypes.CDLL, probe: int, name: bytes) -> str | None:
    value, length = ctypes.c_char_p(), ctypes.c_size_t()
    if lib.blkid_probe_lookup_value(probe, name, ctypes.byref(value), ctypes.byref(length)) != 0:
        return None
    return (value.value or b"").decode("utf-8", "replace") or None


@contextmanager
def _open_probe(fd: int, offset_bytes: int, size_bytes: int) -> Iterator[tuple[ctypes.CDLL, int]]:
    lib = load_library()
    probe = lib.blkid_new_probe()
    if not probe:
        raise OSError(errno.ENOMEM, "libblkid gives no probe")
    try:
        ctypes.set_errno(0)
        _check(lib.blkid_probe_set_device(probe, fd, offset_bytes, size_bytes), "setting the device")
        yield lib, probe
    finally:
        lib.blkid_free_probe(probe)


def _check(result: int, what: str) -> None:
    if result != 0:
        raise _make_error(what)


def _make_error(what: str) -> OSError:
    number = ctypes.get_errno() or errno.EIO
    return OSError(number, f"libblkid failed {what}: {os.strerror(number)}")


_PROTOTYPES = {
    "blkid_new_probe": (ctypes.c_void_p, ()),
    "blkid_free_probe": (None, (ctypes.c_void_p,)),
    "blkid_probe_set_device": (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
    ),
    "blkid_probe_enable_superblocks": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "blkid_probe_set_superblocks_flags": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "blkid_probe_enable_partitions": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "blkid_probe_set_partitions_flags": (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    "blkid_do_probe": (ctypes.c_int, (ctypes.c_void_p,)),
    "blkid_probe_lookup_value": (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p),
    ),
    "blkid_probe_get_partitions": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "blkid_partlist_numof_partitions": (ctypes.c_int, (ctypes.c_void_p,)),
    "blkid_partlist_get_partition": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int)),
    "blkid_partition_get_partno": (ctypes.c_int, (ctypes.c_void_p,)),
    "blkid_partition_get_start": (ctypes.c_int64, (ctypes.c_void_p,)),
    "blkid_partition_get_size": (ctypes.c_int64, (ctypes.c_void_p,)),
}


@functools.cache
def load_library(name: str = "libblkid.so.1") -> ctypes.CDLL:
    """Return libblkid with its prototypes set; raises LibraryMissingError."""
    try:
        lib = ctypes.CDLL(name, use_errno=True)
        for function, (result, arguments) in _PROTOTYPES.items():
            pointer = getattr(lib, function)
            pointer.restype, pointer.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise LibraryMissingError(errno.ENOENT, f"libblkid cannot be used: {error}") from error
    return lib
