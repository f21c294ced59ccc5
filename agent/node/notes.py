"""Small durable files, one a volume: written and synced before anything is done on their strength.

A file that is not exactly a note of this agent on this machine is refused by name, and never guessed at,
repaired or removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from agent.errors import AgentError, RefusedError
from agent.model import FormatRecord, MountRecord, Reason, VolumeId, parse_volume_id

_VERSION = 1
"""Of the format below; one more whenever a field of a record comes or goes."""
_LIMIT_BYTES = 64 * 1024
_SUFFIX = ".json"
_TEMPORARY_PREFIX = ".new-"

Record = TypeVar("Record", FormatRecord, MountRecord)


def write_synced(path: Path, content: bytes) -> None:
    """Put a file in place in one step, on disk with its directory when this returns.

    Missing directories are made, for the owner alone. OSError where it is not on disk, ValueError where
    others may write in its directory; what was at ``path`` before is still there then.
    """
    _make_directory(path.parent)
    temporary = f"{_TEMPORARY_PREFIX}{path.name}"
    with _open_directory(path.parent) as directory_fd:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600, dir_fd=directory_fd)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, path.name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory_fd)
            raise
        os.fsync(directory_fd)


@dataclass(frozen=True)
class Shelf:
    """The notes of one kind, each in a file of its own."""

    directory: Path
    kind: str
    names: frozenset[str]
    """The fields of a record of this kind."""
    machine_id: str

    def path_of(self, volume_id: VolumeId) -> Path:
        """Return the file that holds the note about a volume."""
        return self.directory / f"{parse_volume_id(volume_id)}{_SUFFIX}"

    def list_volumes(self) -> tuple[VolumeId, ...]:
        """Return the volumes that have a note, sound or not."""
        found: list[VolumeId] = []
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(entry.name for entry in self.directory.iterdir()):
                with contextlib.suppress(AgentError):
                    if name.endswith(_SUFFIX):
                        found.append(parse_volume_id(name.removesuffix(_SUFFIX)))
        return tuple(found)

    def read(self, volume_id: VolumeId, parse: Callable[[Fields], Record]) -> Record | None:
        """Return the note about a volume, None without one; RefusedError where its file is not sound."""
        path = self.path_of(volume_id)
        try:
            content = self._read_bytes(path)
            if content is None:
                return None
            record = parse(self._open_envelope(content))
        except (ValueError, AgentError) as error:
            raise _unsound(path, error) from error
        if record.volume_id != volume_id:
            raise _unsound(path, ValueError(f"it is about {record.volume_id}"))
        return record

    def write(self, record: FormatRecord | MountRecord) -> None:
        """Put a note on disk and sync it and its directory; AgentError where that failed."""
        path = self.path_of(record.volume_id)
        fields = dataclasses.asdict(record)
        note = {
            "version": _VERSION,
            "kind": self.kind,
            "machine_id": self.machine_id,
            "record": fields,
            "checksum": _checksum(self.kind, self.machine_id, fields),
        }
        try:
            write_synced(path, json.dumps(note, indent=1).encode() + b"\n")
        except OSError as error:
            raise _cannot_write(path, error) from error
        except ValueError as error:
            raise _unsound(path, error) from error

    def remove(self, volume_id: VolumeId) -> None:
        """Take a note away, in whatever state it is."""
        path = self.path_of(volume_id)
        try:
            path.unlink()
            with _open_directory(self.directory) as directory_fd:
                os.fsync(directory_fd)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot_write(path, error) from error

    def _read_bytes(self, path: Path) -> bytes | None:
        """Return the file's content; None without one; ValueError where it could be another's work."""
        try:
            with _open_directory(self.directory) as directory_fd:
                # Not blocking, so that a FIFO in its place is seen for what it is.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                fd = os.open(path.name, flags, dir_fd=directory_fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            why = (
                "it is a symbolic link"
                if error.errno == errno.ELOOP
                else f"it cannot be opened: {error.strerror}"
            )
            raise ValueError(why) from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
            _check_owner(status)
            content = os.read(fd, _LIMIT_BYTES + 1)
        except OSError as error:
            raise ValueError(f"it cannot be read: {error.strerror}") from error
        finally:
            os.close(fd)
        if len(content) > _LIMIT_BYTES:
            raise ValueError(f"it is larger than {_LIMIT_BYTES} bytes")
        return content

    def _open_envelope(self, content: bytes) -> Fields:
        note = _parse_json(content)
        names = frozenset({"version", "kind", "machine_id", "record", "checksum"})
        envelope = Fields(note, names)
        version, kind = envelope.take_number("version"), envelope.take_text("kind")
        if (version, kind) != (_VERSION, self.kind):
            raise ValueError(f"it is a {kind!r} note of version {version}")
        machine_id, fields = envelope.take_text("machine_id"), envelope.take_object("record")
        if envelope.take_text("checksum") != _checksum(kind, machine_id, fields):
            raise ValueError("its checksum does not match")
        if machine_id != self.machine_id:
            raise ValueError(f"it was written on another machine ({machine_id or 'without an ID'})")
        return Fields(fields, self.names)


def _parse_json(content: bytes) -> object:
    def refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a field is there twice")
        return dict(pairs)

    try:
        value: object = json.loads(content, object_pairs_hook=refuse_repeated)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("it is not one whole JSON object") from error
    return value


def _checksum(kind: str, machine_id: str, fields: object) -> str:
    content = json.dumps([_VERSION, kind, machine_id, fields], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def _make_directory(directory: Path) -> None:
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    with _open_plainly(directory.parent) as parent_fd:
        os.fsync(parent_fd)


@contextlib.contextmanager
def _open_directory(directory: Path) -> Iterator[int]:
    """Yield a descriptor of a directory in which nobody but root, or whoever runs this, can write."""
    with _open_plainly(directory) as fd:
        try:
            _check_owner(os.fstat(fd))
        except ValueError as error:
            raise ValueError(f"the directory {directory} is not safe, {error}") from error
        yield fd


@contextlib.contextmanager
def _open_plainly(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _check_owner(status: os.stat_result) -> None:
    if status.st_uid not in {0, os.geteuid()}:
        raise ValueError(f"it belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError("others may write to it")


def _unsound(path: Path, error: Exception) -> RefusedError:
    return RefusedError(
        f"The note {path} cannot be trusted: {str(error).rstrip('.') or 'it is torn'}.",
        hint="Nothing was done on its strength. Look at the volume and at the file; to go on without the"
        f" note, move it away: mv {path} {path}.unsound",
        reason=Reason.PROBE_FAILED,
        retryable=False,
    )


def _cannot_write(path: Path, error: OSError) -> AgentError:
    hints = {
        errno.ENOSPC: "The filesystem is full: free some space.",
        errno.EDQUOT: "The quota is used up: free some space.",
        errno.EROFS: "The filesystem is read-only: see the kernel log, or move the state directory.",
        errno.EACCES: "The agent runs as root, with write access to its state directory.",
    }
    return AgentError(
        f"The note {path} could not be written and synced: {error.strerror}.",
        hint=hints.get(error.errno or 0, "Without it nothing is formatted; see the kernel log."),
        reason=Reason.STEP_FAILED,
    )


class Fields:
    """A JSON object being taken apart; ValueError where it is not what was written."""

    def __init__(self, value: object, names: frozenset[str]) -> None:
        if not isinstance(value, dict) or set(value) != names:
            raise ValueError("its fields are not those of a note")
        self._value: dict[str, Any] = value

    def is_none(self, name: str) -> bool:
        """Whether the field is there and holds nothing."""
        return self._value[name] is None

    def take_text(self, name: str) -> str:
        """Return a text."""
        return check_text(self._value[name])

    def take_number(self, name: str) -> int:
        """Return a whole number from 0 on."""
        return check_number(self._value[name])

    def take_object(self, name: str) -> object:
        """Return a value as it is."""
        return self._value[name]

    def take_list(self, name: str) -> list[Any]:
        """Return a list of values as they are."""
        value = self._value[name]
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list")  # noqa: TRY004 (all that is wrong with a note is one error)
        return value


def check_text(value: object) -> str:
    """Return a text as it is; ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError("a text is none")  # noqa: TRY004
    return value


def check_number(value: object) -> int:
    """Return a whole number from 0 on as it is; ValueError for anything else."""
    # True is an int to Python, and not to anyone who reads the file.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a number is none")
    return value
