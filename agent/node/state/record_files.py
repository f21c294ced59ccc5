"""Small durable files, one a volume: written and synced before anything is done on their strength.

A file that is not exactly a note of this agent on this machine is refused by name, and never guessed at,
repaired or removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from msgspec import Struct, to_builtins

from agent.core.errors import AgentError, InconclusiveError, RefusedError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason, VolumeId, parse_volume_id
from agent.core.quoting import fit
from agent.node.state.record_fields import Fields, Note

_VERSION = 1
"""Of the format below; one more whenever a field of a record comes or goes."""
_LIMIT_BYTES = 64 * 1024
_SUFFIX = ".json"
_TEMPORARY_PREFIX = ".new-"

Record = TypeVar("Record", bound=Note)


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


class Shelf(Struct, Generic[Record], frozen=True):
    """The notes of one kind, each in a file of its own; one about each volume at most."""

    directory: Path
    kind: str
    record: type[Record]
    parse: Callable[[Fields], Record]
    machine_id: str

    def path_of(self, volume_id: VolumeId) -> Path:
        """Return the file that holds the note about a volume."""
        return self.directory / f"{parse_volume_id(volume_id)}{_SUFFIX}"

    def list_volumes(self) -> tuple[VolumeId, ...]:
        """Return the volumes that have a note, sound or not."""
        try:
            names = sorted(entry.name for entry in self.directory.iterdir())
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _cannot_look(self.directory, error) from error
        found: list[VolumeId] = []
        for name in names:
            with contextlib.suppress(AgentError):
                if name.endswith(_SUFFIX):
                    found.append(parse_volume_id(name.removesuffix(_SUFFIX)))
        return tuple(found)

    def read(self, volume_id: VolumeId) -> Record | None:
        """Return the note about a volume, None without one.

        RefusedError where its file is not sound, InconclusiveError where it could not be looked at, which is
        no reason to distrust it.
        """
        path = self.path_of(volume_id)
        try:
            content = self._read_bytes(path)
            if content is None:
                return None
            record = self.parse(self._open_envelope(content))
        except InconclusiveError:
            raise
        except (ValueError, AgentError) as error:
            raise _unsound(path, error) from error
        if record.volume_id != volume_id:
            raise _unsound(path, ValueError(f"it is about {record.volume_id}"))
        return record

    def write(self, record: Record) -> None:
        """Put a note on disk and sync it and its directory; AgentError where that failed."""
        path = self.path_of(record.volume_id)
        fields = to_builtins(record)
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
        except ValueError as error:
            raise _unsound(path, error) from error

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
            if error.errno not in _NO_FILE_OF_OURS:
                raise _cannot_look(path, error) from error
            raise ValueError(_NO_FILE_OF_OURS[error.errno]) from error
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is not a regular file")
            _check_owner(status)
            content = os.read(fd, _LIMIT_BYTES + 1)
        except OSError as error:
            raise _cannot_look(path, error) from error
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
        return Fields(fields, frozenset(self.record.__struct_fields__))


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
            raise _UnsafeDirectoryError(directory, str(error)) from error
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


_NO_FILE_OF_OURS = {
    errno.ELOOP: "it is a symbolic link",
    errno.ENOTDIR: "what it lies in is no directory",
    errno.ENXIO: "it is not a regular file",
}
"""What the kernel says of something in the place of a note. All else says that it could not be looked at."""


class _UnsafeDirectoryError(ValueError):
    """Others may write where notes are kept."""

    def __init__(self, directory: Path, why: str) -> None:
        super().__init__(f"the directory {directory} is not safe, {why}")
        self.hint = f"Close the directory: chown root {directory}; chmod go-w {directory}. "


def _unsound(path: Path, error: Exception) -> RefusedError:
    hint = (
        "Nothing was done on its strength. Look at the volume and at the file; to go on without the"
        f" note, move it away: mv {path} {path}.unsound"
    )
    return RefusedError(
        f"The note {path} cannot be trusted: {fit(str(error).rstrip('.')) or 'it is torn'}.",
        hint=f"{getattr(error, 'hint', '')}{hint}",
        reason=Reason.PROBE_FAILED,
        retryable=False,
    )


def _cannot_look(path: Path, error: OSError) -> InconclusiveError:
    """Return what to say of a note that the kernel did not let be read: nothing is known of it by that."""
    if is_shortage(error):
        return explain_shortage(f"The note {path} could not be read", error)
    return InconclusiveError(
        f"The note {path} could not be read: {error.strerror}.",
        hint="Leave it where it is: it is read again by itself. See the kernel log for the disk it is on.",
        reason=Reason.PROBE_FAILED,
    )


def _cannot_write(path: Path, error: OSError) -> AgentError:
    if is_shortage(error, writes=True):
        return explain_shortage(f"The note {path} could not be written and synced", error)
    hints = {
        errno.EROFS: "The filesystem is read-only: see the kernel log, or move the state directory.",
        errno.EACCES: "The agent runs as root, with write access to its state directory.",
    }
    return AgentError(
        f"The note {path} could not be written and synced: {error.strerror}.",
        hint=hints.get(error.errno or 0, "Without it nothing is formatted; see the kernel log."),
        reason=Reason.STEP_FAILED,
    )
