"""Packs a directory so that the same files always give the same bytes, whoever packs them, and when."""

from __future__ import annotations

import gzip
import hashlib
import stat
import tarfile
from pathlib import Path

EPOCH_S = 1577836800
"""2020-01-01: a time for every file, after which no tool takes it for a mistake."""
SUMS = "SHA256SUMS"


def write_sums(directory: Path) -> None:
    """Write the checksums of all files below ``directory`` there, as ``sha256sum --check`` reads them."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{hash_file(path)}  {path.relative_to(directory)}\n" for path in files]
    (directory / SUMS).write_text("".join(lines), encoding="utf-8")


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def pack(directory: Path, archive: Path) -> None:
    """Pack ``directory`` under its own name into a .tar.gz, and write ``archive``'s checksum beside it."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=EPOCH_S, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in [directory, *sorted(directory.rglob("*"))]:
            tar.add(
                path, str(path.relative_to(directory.parent)), recursive=False, filter=_forget_who_and_when
            )
    sums = archive.with_name(f"{archive.name}.sha256")
    sums.write_text(f"{hash_file(archive)}  {archive.name}\n", encoding="utf-8")


def _forget_who_and_when(member: tarfile.TarInfo) -> tarfile.TarInfo:
    is_executable = member.isdir() or member.mode & stat.S_IXUSR
    member.mode = 0o755 if is_executable else 0o644
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = EPOCH_S
    return member
