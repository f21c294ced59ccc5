"""What a confined process can do, and what comes of one that does wrong: nothing but an error."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import psutil
import pytest

from agent.core.errors import AgentError, NotAnsweringError
from agent.node.isolate import confined, confined_calls, unprivileged
from agent.node.isolate.confined_calls import MAX_ANSWER_BYTES
from agent.node.isolate.unprivileged import NOBODY_UID
from agent.node.isolate.workers import Workers
from tests.waiting import until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="rights are given up")


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    async with Workers() as made:
        yield made


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A file that everybody may write to."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        path = Path(directory) / "file"
        path.touch()
        path.chmod(0o666)
        yield path


def read_all(path: Path) -> bytes:
    return path.read_bytes()


async def ask(workers: Workers, function: object, request: bytes = b"?") -> bytes:
    name = f"{__name__}:{getattr(function, '__name__', '')}"
    return await workers.confined(name, request, subject="The file")


# What the confined processes run.


def turn_round(request: bytes) -> bytes:
    return request[::-1]


def try_to_act(path: bytes) -> bytes:
    """Return what of all that a process may want of the kernel was possible."""
    file = os.fsdecode(path)
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: Path(file).read_bytes(),
        "write": lambda: Path(file).write_bytes(b"x"),
        "list": lambda: list(Path("/").iterdir()),
        "look": lambda: Path(file).stat(),
        "remove": lambda: Path(file).unlink(),
        "be root": lambda: os.setuid(0),
        "fork": os.fork,
        "run": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
        "signal": lambda: os.kill(os.getppid(), 0),
        "connect": lambda: socket.socket(socket.AF_UNIX),
        "sleep": lambda: time.sleep(0.001),
        "change itself": unprivileged.give_up_privileges,
    }
    possible = []
    for name, act in acts.items():
        try:
            act()
        except PermissionError:
            continue
        possible.append(name)
    return ",".join(["tried", *possible]).encode()


def fail(request: bytes) -> bytes:
    raise ValueError(request)


def end(request: bytes) -> bytes:
    ctypes.string_at(0)
    return request


def say_too_much(_: bytes) -> bytes:
    return b"x" * (MAX_ANSWER_BYTES + 1)


def take_memory(_: bytes) -> bytes:
    return bytes(resource.getrlimit(resource.RLIMIT_AS)[0] + 1)


def hang(_: bytes) -> bytes:
    while True:
        pass


def tell_pid(_: bytes) -> bytes:
    return str(os.getpid()).encode()


async def test_bytes_are_made_of_bytes(workers: Workers) -> None:
    """However long the request is, it arrives whole, and each call has a process of its own."""
    assert await ask(workers, turn_round, b"abc" * 500_000) == b"cba" * 500_000
    assert await ask(workers, tell_pid) != await ask(workers, tell_pid)


@needs_root
@pytest.mark.parametrize("may_become_another", [True, False])
def test_rights_are_given_up(*, may_become_another: bool) -> None:
    """It is nobody, in no group, without a capability, and cannot gain one.

    Where it may not become another user, as in the daemon's unit, it is root by name alone.
    """
    told = subprocess.run(
        [sys.executable, "-c", RIGHTS, str(int(may_become_another))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    status = dict(line.split(":\t", 1) for line in told.splitlines() if ":\t" in line)
    user = str(NOBODY_UID if may_become_another else 0)
    assert status["Uid"].split() == status["Gid"].split() == [user] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert not may_become_another or not status["Groups"].strip()


RIGHTS = """
import ctypes, os, socket, struct, sys
from pathlib import Path
from agent.node.isolate.confined import serve_once
ours, its = socket.socketpair()
pid = os.fork()
if pid == 0:
    ours.close()
    if sys.argv[1] == "0":
        header, held, libc = struct.pack("=Ii", 0x20080522, 0), bytearray(24), ctypes.CDLL(None)
        assert libc.capget(header, (ctypes.c_char * 24).from_buffer(held)) == 0
        for at in 0, 4:
            held[at] &= ~(1 << 6 | 1 << 7)  # CAP_SETGID, CAP_SETUID
        assert libc.capset(header, bytes(held)) == 0
    serve_once(its, "tests.unit.node.isolate.test_confined_calls:turn_round")
    os._exit(0)
its.close()
while "Seccomp:\t2" not in (status := Path(f"/proc/{pid}/status").read_text()):
    assert "Z (zombie)" not in status
print(status)
ours.sendall(b"ab")
ours.shutdown(socket.SHUT_WR)
assert ours.recv(10) == b"ba"
"""


async def test_nothing_can_be_done(workers: Workers, open_to_all: Path) -> None:
    """No file is read or written, even where all may, no process started or signalled, nobody spoken to."""
    assert await ask(workers, try_to_act, bytes(open_to_all)) == b"tried"
    assert read_all(open_to_all) == b""


@needs_root
def test_who_is_root_and_cannot_be_sealed_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without the filter: only nobody goes on, since root owns files without any capability."""

    def refuse() -> None:
        raise OSError(errno.EINVAL, "no filter")

    monkeypatch.setattr(confined, "seal", refuse)
    with pytest.raises(OSError, match="no filter"):
        confined.seal_off()
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY_UID)
    confined.seal_off()


@pytest.mark.parametrize("function", [fail, end, say_too_much, take_memory])
async def test_no_answer_is_an_error(workers: Workers, function: object) -> None:
    """A process that fails, dies, babbles or takes too much memory costs one call, and no other."""
    with pytest.raises(AgentError, match="The file could not be read: the process that reads it"):
        await ask(workers, function)
    assert await ask(workers, turn_round, b"ab") == b"ba"


async def test_one_that_hangs_is_ended(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as not answering, and killed."""
    monkeypatch.setattr(confined_calls, "TIMEOUT_S", 0.01)
    with pytest.raises(NotAnsweringError, match="was not read within"):
        await ask(workers, hang)
    monkeypatch.undo()
    pid = int(await ask(workers, tell_pid))
    await until(lambda: not Path(f"/proc/{pid}").exists())


@needs_root
async def test_it_ends_with_the_zygote(workers: Workers) -> None:
    """Whoever becomes another user is not ended with its parent any more, unless that is asked for again."""
    zygote = psutil.Process(int(await workers.call(os.getppid, timeout_s=60, subject="it")))

    def find_sealed() -> list[psutil.Process]:
        return [
            child
            for child in zygote.children()
            if "Seccomp:\t2" in Path(f"/proc/{child.pid}/status").read_text(encoding="ascii")
        ]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_in_vain, workers)
        (child,) = await until(find_sealed)
        zygote.kill()
        await until(lambda: not child.is_running())


async def ask_in_vain(workers: Workers) -> None:
    with pytest.raises(AgentError, match="ended without an answer"):
        await ask(workers, hang)


async def test_one_begun_early_makes_the_first_call() -> None:
    """It is used once; the next call has another."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.sendall(b"early")
    theirs.shutdown(socket.SHUT_WR)
    async with Workers(confined=ours) as workers:
        assert await ask(workers, turn_round, b"ab") == b"early"
        assert theirs.recv(10) == b"ab"
        assert await ask(workers, turn_round, b"ab") == b"ba"
    theirs.close()


EARLY = """
import anyio
from agent.node.isolate.forked_zygote import begin_confined, fork_zygote
zygote = fork_zygote()
early = begin_confined(zygote[1], "agent.policy.reading.apart:answer")
from agent.node.isolate.workers import Workers
from agent.policy.policy_file import READER

async def main():
    async with Workers(zygote, early) as workers:
        for _ in range(2):
            print(await workers.confined(READER, b"[]\\nversion: 1\\n", subject="it"))

anyio.run(main)
"""


def test_the_zygote_begins_it_before_there_is_a_loop() -> None:
    """The process ordered right after the fork answers as any later one does."""
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert (first, done.stderr) == (second, "")
    assert '"version": 1' in first


def test_nobody_asks() -> None:
    """A daemon that ends before it has asked, as with a wrong option, leaves it without a word."""
    code = (
        "import socket; from agent.node.isolate.confined import serve_once; ours, its = socket.socketpair();"
        "ours.close(); serve_once(its, 'agent.policy.reading.apart:answer')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
