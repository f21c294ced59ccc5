"""What a bug report needs, in one archive: what the agent says, the node has, and was logged. No secrets.

Nothing of what is collected may fail or hang the whole: what could not be had is named in the archive.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import select
import shlex
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

import agent
from agent.base.paths import Paths
from agent.cli.client import Client
from agent.cli.doctor.findings import Finding
from agent.cli.doctor.withhold import withhold
from agent.cli.show.estimate import WHOLE
from agent.cli.show.output import print_json
from agent.cli.show.progress import Telling
from agent.core.errors import AgentError
from agent.core.quoting import make_printable
from agent.core.units import utc_now

COMMAND_TIMEOUT_S = 20.0
MAX_BYTES = 8 << 20
"""Of one part; of what a program prints the end is kept, which is the newest, and of a file its beginning."""
ABOUT = """\
What `ebs-agent doctor --bundle` collected on this node. Look through it before you hand it on.

Withheld: roles and accounts of AWS, access keys, tokens, passwords and private keys, names and users of
processes. Not withheld: names of hosts, volumes, mount points, tags and pods, and addresses.
"""
STATES = (
    *("Id", "LoadState", "UnitFileState", "ActiveState", "SubState", "StateChangeTimestamp", "Result"),
    *("ExecMainPID", "ExecMainCode", "ExecMainStatus", "ExecMainStartTimestamp", "NRestarts", "NAccepted"),
    *("NRefused", "MemoryCurrent", "TasksCurrent", "CPUUsageNSec", "NFileDescriptorStore"),
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "journal/agent.txt": ("journalctl", "--no-pager", "--output=short-iso", "--lines=20000", "--unit=ebs-*"),
    "journal/kernel.txt": ("journalctl", "--no-pager", "--output=short-iso", "--lines=5000", "--dmesg"),
    "node/units.txt": ("systemctl", "--no-pager", "cat", "ebs-*"),
    # Not their status, which shows the command lines of all processes.
    "node/units-status.txt": ("systemctl", "--no-pager", "show", "ebs-*", f"--property={','.join(STATES)}"),
    "node/block-devices.json": ("lsblk", "--json", "--output-all"),
    "node/udev.txt": ("udevadm", "info", "--export-db", "--subsystem-match=block"),
}
FILES = (
    *("etc/os-release", "etc/fstab", "proc/self/mountinfo", "proc/partitions", "proc/swaps", "proc/mdstat"),
    *("proc/cmdline", "proc/meminfo", "proc/loadavg", "proc/uptime"),
)

MAX_NOTES, MAX_NOTE_BYTES = 1000, 64 << 10
"""Of the agent's own notes: how many, and how large one may be."""

Run = Callable[[Sequence[str]], bytes]
Part = Callable[[], Any]
"""Returns bytes, or what is written as JSON."""


class Collected(Struct, frozen=True):
    """What an archive holds: its parts, and those that could not be had with the reason."""

    path: str
    size_bytes: int
    parts: list[str]
    missing: dict[str, str]


def run_command(argv: Sequence[str]) -> bytes:
    """Return the end of what a program prints, whatever it ends with. Raises OSError, or TimeoutExpired."""
    end_at = time.monotonic() + COMMAND_TIMEOUT_S
    with contextlib.ExitStack() as left:
        out, into = os.pipe()
        left.callback(os.close, out)
        try:
            program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=into, stderr=into)
        finally:
            os.close(into)
        left.callback(_end, program)
        printed = _read_end(out, end_at)
        if printed is None:
            raise subprocess.TimeoutExpired(argv, COMMAND_TIMEOUT_S)
        program.wait(max(0.0, end_at - time.monotonic()))
        return printed


def _end(program: subprocess.Popen[bytes]) -> None:
    if program.poll() is None:
        program.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a device does not die
            program.wait(1)


def _read_end(pipe: int, end_at: float) -> bytes | None:
    """Return the last lines of what comes, ``MAX_BYTES`` at most; None where it has no end in time."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    kept, is_cut = bytearray(), False
    while (left_s := end_at - time.monotonic()) > 0:
        if not poll.poll(left_s * 1000):
            continue
        came = os.read(pipe, 1 << 20)
        if not came:
            return bytes(kept.partition(b"\n")[2] if is_cut else kept)
        kept += came
        if len(kept) > MAX_BYTES:
            del kept[:-MAX_BYTES]
            is_cut = True
    return None


def read_file(path: Path) -> bytes:
    """Return the beginning of a file; what is no file waits for nobody. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is no regular file")
        return file.read(MAX_BYTES)


def collect(
    target: Path,
    paths: Paths,
    client: Client,
    findings: Sequence[Finding],
    run: Run = run_command,
    progress: Telling | None = None,
) -> Collected:
    """Write the archive, which must not exist yet and is for its owner alone. Raises AgentError."""
    parts = {"about.txt": ABOUT.encode()}
    missing: dict[str, str] = {}
    wanted = list(_list_parts(paths, client, findings, run))
    for number, (name, get) in enumerate(wanted):
        if progress is not None:
            progress.tell(None, WHOLE * number / len(wanted))
        try:
            found = get()
            parts[name] = withhold(found).encode("utf-8", "replace")
        except Exception as error:  # noqa: BLE001 -- what is wrong with one part is to hide no other
            missing[name] = withhold(f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
    if missing:
        parts["missing.txt"] = "".join(f"{name}: {why}\n" for name, why in missing.items()).encode()
    return Collected(str(target), _write(target, parts), sorted(parts), missing)


def _list_parts(
    paths: Paths, client: Client, findings: Sequence[Finding], run: Run
) -> Iterator[tuple[str, Part]]:
    yield "doctor.json", lambda: [to_builtins(finding) for finding in findings]
    yield "versions.json", _read_versions
    yield "agent/status.json", client.status
    yield "agent/plan.json", client.plan
    yield "agent/events.json", lambda: list(client.events())
    yield "policy.yaml", partial(read_file, paths.policy)
    yield "hooks.json", lambda: _list_files(paths.hooks)
    yield "notes.json", lambda: _read_notes(paths.state)
    for name in FILES:
        yield f"node/{name}", partial(read_file, Path("/", name))
    for name, argv in COMMANDS.items():
        yield name, partial(run, argv)


def _read_versions() -> dict[str, str]:
    return {
        "agent": agent.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "collected_at": utc_now().isoformat(timespec="seconds"),
        **{each.name: each.version for each in distributions()},
    }


def _list_files(directory: Path) -> list[dict[str, Any]]:
    return [
        {"name": path.name, "mode": f"{found.st_mode:o}", "uid": found.st_uid, "size_bytes": found.st_size}
        for path in sorted(directory.iterdir())
        for found in (path.lstat(),)
    ]


def _read_notes(state: Path) -> dict[str, str]:
    """Return what the agent keeps, by names below its state directory; not through links."""
    files = [path for path in sorted(state.rglob("*")) if stat.S_ISREG(path.lstat().st_mode)]
    notes = {}
    for path in files[:MAX_NOTES]:
        with path.open("rb") as file:
            notes[str(path.relative_to(state))] = file.read(MAX_NOTE_BYTES).decode("utf-8", "replace")
    return notes


def _write(target: Path, parts: Mapping[str, bytes]) -> int:
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with contextlib.ExitStack() as on_failure, os.fdopen(fd, "wb") as file:
            on_failure.callback(target.unlink, missing_ok=True)
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                for name, content in sorted(parts.items()):
                    member = tarfile.TarInfo(f"ebs-agent-doctor/{name}")
                    member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
                    archive.addfile(member, io.BytesIO(content))
            file.flush()
            on_failure.pop_all()
            return os.fstat(fd).st_size
    except FileExistsError as error:
        raise AgentError(f"{target} exists already.", hint="Give another name.") from error
    except OSError as error:
        message = f"{target} could not be written: {error.strerror}."
        raise AgentError(message, hint="Name a file in a directory that may be written to.") from error


def show_collected(collected: Collected, *, as_json: bool) -> None:
    """Print what was written, and what could not be had."""
    if as_json:
        print_json(to_builtins(collected))
        return
    lines = [f"{collected.path}: {len(collected.parts)} files, {collected.size_bytes / 1000:.0f} kB."]
    lines += [f"not had: {name}: {why}" for name, why in collected.missing.items()]
    lines.append(f"Look through it before you hand it on: tar xOzf {shlex.quote(collected.path)} | less")
    sys.stdout.write("".join(f"{make_printable(line)}\n" for line in lines))
