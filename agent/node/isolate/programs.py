"""Runs the programs of the system, and hooks: argument lists, a clean environment, every child reaped.

It never uses a shell, never waits for ever, and never leaves a child behind unless the kernel itself will
not let go of it; such a child is abandoned, counted, and reaped when it ends. The agent's own processes are
started by who speaks with them: the zygote, the guardian of a freeze, and the cloud's worker.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, cast

import anyio
from msgspec import Struct, field

from agent.core.errors import AgentError, NotAnsweringError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason
from agent.core.quoting import make_printable
from agent.node.isolate.installed_programs import SEARCH_PATH, find_program
from agent.node.isolate.resource_limits import release_child

_ENVIRONMENT = {
    "PATH": SEARCH_PATH,
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "HOME": "/",
    # No program is to believe, or to write, what this machine remembers of its devices.
    "BLKID_FILE": "/nonexistent/blkid.tab",
}
_HEAD_LIMIT_BYTES = 1 << 16
_TAIL_LIMIT_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 16
_SUMMARY_LIMIT = 400
_DRAIN_S = 0.5
"""How long to read on after the program ended, for output its own children still hold the pipe of."""
_TERM_GRACE_S = 1.5
"""How long a program may take to end in good order: e2fsck and sfdisk then leave what they write whole."""
_KILL_GRACE_S = 2.0
"""How long a killed child may take to go. In D state it does not go until the device answers."""


class Completed(Struct, frozen=True):
    """A program that ended. Output is decoded leniently.

    Of a long one there are the first 64 KiB and the last 1 MiB, with a line of ``[...]`` in between.
    """

    argv: tuple[str, ...]
    returncode: int
    """The exit status, or minus the number of the signal that ended it."""
    stdout: str
    stderr: str
    written_bytes: int | None = None
    """What it wrote to disks, itself and by children it waited for, as the kernel counts (proc(5), ``io``):
    each page that it made dirty. None where that is not told."""

    def summarize(self) -> str:
        """Return the last lines the program wrote about its trouble, in one line of bounded length."""
        text = self.stderr if self.stderr.strip() else self.stdout
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        # Some print how they are used after what is wrong.
        usage = next((n for n, line in enumerate(lines) if line.lower().startswith("usage:")), 0)
        summary = "; ".join(lines[: usage or None][-4:])
        return make_printable(summary)[-_SUMMARY_LIMIT:]


class Run(Protocol):
    """How the rest of the agent runs a program: :func:`run`, or in tests a scripted stand-in."""

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        pass_fds: Sequence[int] = (),
        input: str | None = None,  # noqa: A002 (subprocess's own word)
        check: Sequence[int] = (0,),
        name: str | None = None,
    ) -> Completed: ...


class Abandoned(Struct):
    """Children that did not end when killed. They cannot be waited for, so they are counted."""

    total: int = 0
    waiting: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def add(self, child: subprocess.Popen[bytes]) -> None:
        self.total += 1
        self.waiting.add(child)

    def reap(self) -> None:
        """Take leave of those that have ended since."""
        self.waiting = {child for child in self.waiting if child.poll() is None}


abandoned = Abandoned()


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    pass_fds: Sequence[int] = (),
    input: str | None = None,  # noqa: A002 (subprocess's own word)
    check: Sequence[int] = (0,),
    name: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run ``argv`` to its end and return what it wrote.

    ``pass_fds`` keep their numbers in the child, so ``/proc/self/fd/N`` names a descriptor in ``argv``.
    An exit status outside ``check`` raises AgentError with the program's last lines; a program that is not
    installed raises one naming its package; one that takes longer than ``timeout_s`` is ended with all it
    started, first by SIGTERM, and raises NotAnsweringError. ``name`` is what errors call a program that
    another one starts; ``environment`` is added to the clean one every program gets.
    """
    abandoned.reap()
    called = name or argv[0].rsplit("/", 1)[-1]
    outputs = _Output(), _Output()
    written_bytes = None
    async with _start(argv, pass_fds, environment or {}, has_input=input is not None) as child:
        with anyio.move_on_after(timeout_s):
            written_bytes = await _converse(child, input, outputs)
        returncode = child.returncode
    stdout, stderr = (output.decode() for output in outputs)
    if returncode is None:
        raise NotAnsweringError(
            f"{called} did not end within {timeout_s:g} s and was ended.",
            hint="The device may not answer, or it is slower than the agent allows for.",
            reason=Reason.STALLED,
        )
    completed = Completed(tuple(argv), returncode, stdout, stderr, written_bytes)
    if completed.returncode not in check:
        raise _failed(called, completed)
    return completed


def descriptor_path(fd: int) -> str:
    """Return the path by which a child that was passed ``fd`` opens what the descriptor is of."""
    return f"/proc/self/fd/{fd}"


@contextlib.asynccontextmanager
async def _start(
    argv: Sequence[str], pass_fds: Sequence[int], environment: Mapping[str, str], *, has_input: bool
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Start the program in a session of its own; on the way out it is reaped, or abandoned and counted."""
    program = find_program(argv[0])
    try:
        child = subprocess.Popen(  # noqa: ASYNC220 (returns at exec; anyio's own would need a thread to wait)
            [program, *argv[1:]],
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={**environment, **_ENVIRONMENT},
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        if is_shortage(error):
            raise explain_shortage(f"{argv[0]} could not be started", error) from error
        raise AgentError(f"{argv[0]} could not be started: {error.strerror}.") from error
    release_child(child.pid)
    try:
        yield child
    finally:
        if child.poll() is None:
            await _end(child)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                # There may be input left that nobody reads any more.
                with contextlib.suppress(OSError):
                    pipe.close()


async def _converse(
    child: subprocess.Popen[bytes], text: str | None, outputs: tuple[_Output, _Output]
) -> int | None:
    """Feed the program, and read it until it and its output end; return what it wrote to disks."""
    async with anyio.create_task_group() as readers:
        readers.start_soon(_read, _fileno(child.stdout), outputs[0])
        readers.start_soon(_read, _fileno(child.stderr), outputs[1])
        if text is not None:
            readers.start_soon(_write, child, text.encode())
        await _wait(child)
        written_bytes = count_written(child.pid)
        child.poll()
        # Whoever inherited the pipes may hold them open for ever.
        readers.cancel_scope.deadline = anyio.current_time() + _DRAIN_S
    for pipe, output in zip((child.stdout, child.stderr), outputs, strict=True):
        _read_rest(_fileno(pipe), output)
    return written_bytes


def count_written(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Return what a program wrote to disks that has ended and is not reaped; None where that is not told."""
    counts: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / str(pid) / "io").read_text("ascii").splitlines():
            name, _, count = line.partition(": ")
            counts[name] = int(count)
    # Where some of it was taken back before it came to a disk, nothing tells how much came there.
    return counts.get("write_bytes") if counts.get("cancelled_write_bytes") == 0 else None


async def _read(fd: int, output: _Output) -> None:
    while True:
        await anyio.wait_readable(fd)
        chunk = os.read(fd, _CHUNK_BYTES)
        if not chunk:
            return
        output.add(chunk)


def _read_rest(fd: int, output: _Output) -> None:
    """Take what the pipe holds: where processors are scarce, the time to read on is over before it began."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        output.add(os.read(fd, _TAIL_LIMIT_BYTES))


async def _write(child: subprocess.Popen[bytes], rest: bytes) -> None:
    pipe = cast("IO[bytes]", child.stdin)
    fd = pipe.fileno()
    os.set_blocking(fd, False)
    # A program that ends without reading its input says why by its exit status.
    with contextlib.suppress(BrokenPipeError):
        while rest:
            await anyio.wait_writable(fd)
            rest = rest[os.write(fd, rest) :]
    pipe.close()


async def _wait(child: subprocess.Popen[bytes]) -> None:
    """Wait for the child's end without a thread and without a signal handler; it is not reaped by this."""
    pidfd = os.pidfd_open(child.pid)
    try:
        await anyio.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def _end(child: subprocess.Popen[bytes]) -> None:
    """Tell the child, with all it started, to end, and what is left of them after a grace to die."""
    for number, grace_s in ((signal.SIGTERM, _TERM_GRACE_S), (signal.SIGKILL, _KILL_GRACE_S)):
        # The child leads a session of its own and is not reaped yet, so the group's number is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        # With no descriptor left to wait on there is no grace.
        with contextlib.suppress(OSError), anyio.move_on_after(grace_s, shield=True):
            await _wait(child)
    if child.poll() is None:
        abandoned.add(child)


def _fileno(pipe: IO[bytes] | None) -> int:
    return cast("IO[bytes]", pipe).fileno()


def _failed(called: str, completed: Completed) -> AgentError:
    if completed.returncode < 0:
        end = f"was ended by signal {-completed.returncode}"
    else:
        end = f"ended with {completed.returncode}"
    # Most programs begin with their own name.
    summary = completed.summarize().removeprefix(f"{called}: ")
    message = f"{called} {end}: {summary}" if summary else f"{called} {end}."
    return AgentError(message, reason=Reason.STEP_FAILED)


class _Output(Struct):
    """The first and the last part of what a program wrote, so that a chatty one costs no memory."""

    head: bytearray = field(default_factory=bytearray)
    tail: bytearray = field(default_factory=bytearray)
    size_bytes: int = 0

    def add(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        room = _HEAD_LIMIT_BYTES - len(self.head)
        self.head += chunk[:room]
        self.tail += chunk[room:]
        if len(self.tail) > 2 * _TAIL_LIMIT_BYTES:
            del self.tail[:-_TAIL_LIMIT_BYTES]

    def decode(self) -> str:
        is_whole = self.size_bytes <= _HEAD_LIMIT_BYTES + _TAIL_LIMIT_BYTES
        between = b"" if is_whole else b"\n[...]\n"
        return bytes(self.head + between + self.tail[-_TAIL_LIMIT_BYTES:]).decode(errors="replace")
