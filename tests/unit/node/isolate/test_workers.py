from __future__ import annotations

import ast
import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest
from structlog.testing import capture_logs

from agent.core.errors import AgentError, BugError, NotAnsweringError, RefusedError, ShortageError
from agent.core.exhaustion import is_shortage
from agent.core.model import Reason
from agent.node.isolate import messages, worker_lifecycle, zygote
from agent.node.isolate.messages import Fd
from agent.node.isolate.worker_lifecycle import Job
from agent.node.isolate.workers import RemoteTraceback, Workers
from tests.descriptors import used_up_descriptors
from tests.waiting import WAIT_S, until, wait_until


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    async with Workers() as made:
        yield made


# What the workers run: module-level functions, as everything they are given.


def raise_it(error: Exception) -> None:
    raise error


def fail_with(number: int) -> int:
    raise OSError(number, os.strerror(number))


def refuse(volume: str) -> None:
    raise RefusedError(f"{volume} is refused.", reason=Reason.NOT_BLANK, hint="Look.")


def divide(number: int) -> float:
    return number / 0


def open_file(path: str) -> Fd:
    return Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def read_fd(fd: Fd) -> bytes:
    return os.read(fd, 100)


def count_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def list_open(path: Path) -> list[Path]:
    """Return the descriptors of this process that are of the file."""
    return [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.samefile(path)]


def meet(directory: str, number: int, count: int) -> None:
    """Come, and stay until all have come."""
    Path(directory, str(number)).touch()
    wait_until(lambda: len(list(Path(directory).iterdir())) == count, "all calls met")


def sleep_then_write(path: str, seconds: float) -> None:
    time.sleep(seconds)
    Path(path).write_text("late", "ascii")


def open_then_sleep(path: str, seconds: float) -> Fd:
    fd = open_file(path)
    time.sleep(seconds)
    return fd


def list_foreign_modules() -> list[str]:
    return [
        name
        for name, module in sys.modules.items()
        if "site-packages" in str(getattr(module, "__file__", ""))
    ]


def return_what_cannot_be_sent() -> object:
    return lambda: None


def count_faults() -> int:
    """Return how many pages the kernel had to give for what libblkid takes, eight times, freed in between."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        held = [ctypes.create_string_buffer(256 << 10) for _ in range(4)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_call_runs_elsewhere_and_returns(workers: Workers) -> None:
    """A call runs in another process; the next one reuses that process."""
    first = await workers.call(os.getpid, timeout_s=60, subject="a")
    assert first != os.getpid()
    assert await workers.call(os.getpid, timeout_s=60, subject="b") == first


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library than glibc does as it does")
async def test_workers_keep_what_they_free(workers: Workers) -> None:
    """What libblkid takes for each pass is not had from the kernel, and cleared, each time."""
    await workers.call(count_faults, timeout_s=60, subject="a")
    assert await workers.call(count_faults, timeout_s=60, subject="a") < 256


def count_children(pid: int) -> int:
    return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


async def meet_in_workers(workers: Workers, directory: Path, count: int) -> None:
    """Make ``count`` calls that end only because they all are under way at once, in an empty directory."""

    async def call(number: int) -> None:
        await workers.call(meet, str(directory), number, count, timeout_s=60, subject=f"vol-{number}")

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(call, number)


async def test_calls_overlap(workers: Workers, tmp_path: Path) -> None:
    """Calls about several volumes are under way at the same time: none waits for another."""
    await meet_in_workers(workers, tmp_path, 8)


async def test_one_worker_is_kept_after_a_burst(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the workers of many calls at once, one is left when they are over: a node is mostly at rest."""
    monkeypatch.setattr(worker_lifecycle, "_SPARE_IDLE_S", 0.01)
    zygote_pid = find_parent(await workers.call(os.getpid, timeout_s=60, subject="vol-1"))
    await meet_in_workers(workers, tmp_path, 4)

    await until(lambda: count_children(zygote_pid) == 1)
    await workers.call(os.getpid, timeout_s=60, subject="vol-1")
    assert count_children(zygote_pid) == 1


async def test_the_worker_in_use_is_the_one_that_is_kept(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that follow each other need one worker, and leave none waiting below it."""
    monkeypatch.setattr(worker_lifecycle, "_SPARE_IDLE_S", 0.5)
    await meet_in_workers(workers, tmp_path, 2)
    zygote_pid = find_parent(pid := await workers.call(os.getpid, timeout_s=60, subject="vol-1"))
    with anyio.fail_after(60):
        while count_children(zygote_pid) > 1:
            assert await workers.call(os.getpid, timeout_s=60, subject="vol-1") == pid


async def test_agent_error_is_raised_as_it_was(workers: Workers) -> None:
    """A refusal in a worker is the same refusal in the daemon."""
    with pytest.raises(RefusedError) as caught:
        await workers.call(refuse, "vol-1", timeout_s=60, subject="vol-1")
    assert (caught.value.reason, caught.value.hint) == (Reason.NOT_BLANK, "Look.")


async def test_os_error_keeps_number_and_path(workers: Workers) -> None:
    """The kernel's refusal keeps its errno and the path it was about."""
    with pytest.raises(FileNotFoundError) as caught:
        await workers.call(open_file, "/nowhere", timeout_s=60, subject="a")
    assert caught.value.filename == "/nowhere"


async def test_fault_is_told_as_ours_with_its_traceback_in_the_log_once(workers: Workers) -> None:
    """A fault of the agent's own is never an answer, and its traceback is in the log, once."""
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(BugError, match="divide for vol-1 failed: ZeroDivisionError") as caught:
                await workers.call(divide, 1, timeout_s=60, subject="vol-1")
            assert caught.value.reason is Reason.INTERNAL_ERROR
            assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert [line["event"] for line in logs] == ["agent.fault"]
    assert "number / 0" in str(logs[0]["exc_info"])


async def test_full_table_of_descriptors_is_no_answer_and_no_fault(workers: Workers, tmp_path: Path) -> None:
    """Where the daemon has no room for a worker, or for what it sends, nothing was found out; later it is."""
    file = tmp_path / "file"
    await anyio.Path(file).write_text("content")
    with used_up_descriptors(), pytest.raises(ShortageError):
        await workers.call(os.getpid, timeout_s=60, subject="vol-1")
    await workers.call(os.getpid, timeout_s=60, subject="vol-1")
    with used_up_descriptors(), pytest.raises(ShortageError):
        await workers.call(open_file, str(file), timeout_s=60, subject="vol-1")
    fd = await workers.call(open_file, str(file), timeout_s=60, subject="vol-1")
    assert os.read(fd, 100) == b"content"
    fd.close()


async def test_descriptor_that_no_worker_can_be_given_is_closed_later(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no room for a worker a device stays open until there is: the daemon closes none itself."""
    monkeypatch.setattr("agent.node.isolate.worker_lifecycle._RETRY_S", 0.01)
    file = tmp_path / "file"
    file.touch()
    fd = Fd(os.open(file, os.O_RDONLY))
    with used_up_descriptors():
        await workers.close(fd, subject="vol-1")
        os.fstat(fd)
    await until(lambda: not list_open(file))


async def test_last_close_of_a_device_is_never_the_daemons(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has the descriptor, and no call to act on yet, when the daemon closes its own."""
    pool = workers._pool
    worker = pool.take()
    worker.sock.close()
    peer, worker.sock = socket.socketpair()
    at_close: list[bytes] = []
    close = Fd.close

    def watch(fd: Fd) -> None:
        at_close.append(peer.recv(1 << 16, socket.MSG_PEEK))
        close(fd)

    monkeypatch.setattr(Fd, "close", watch)
    file = tmp_path / "file"
    file.touch()
    with peer, worker.sock:
        worker.hand(Fd(os.open(file, os.O_RDONLY)))
        monkeypatch.undo()
        assert len(at_close[0]) == 1
        inbox = messages.receive(peer)
        assert inbox is not None
        assert len(list_open(file)) == len(inbox.fds) == 1
        inbox.close_fds()


@pytest.mark.parametrize("error", [OSError(errno.EAGAIN, "no"), OSError(errno.ENOMEM, "no"), MemoryError()])
async def test_shortage_in_a_worker_is_one_of_the_node(workers: Workers, error: Exception) -> None:
    """What a worker ran out of says nothing of the subject."""
    with pytest.raises(ShortageError, match="vol-1 was given up") as caught:
        await workers.call(raise_it, error, timeout_s=60, subject="vol-1")
    assert caught.value.reason is Reason.NODE_EXHAUSTED


async def test_worker_that_could_not_be_forked_is_a_shortage(workers: Workers) -> None:
    """With as many processes as there may be, the zygote says so, and the next call finds room."""
    pool = workers._pool
    worker = pool.take()
    pool.put_back(worker)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        full = zygote.Zygote(ours)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("agent.node.isolate.zygote.os.fork", partial(fail_with, errno.EAGAIN))
            full._fork(zygote.Fork(1, Fd(os.dup(ours.fileno()))))
        inbox = messages.receive(theirs)
    assert inbox is not None
    answer = inbox.decode()
    assert isinstance(answer, zygote.Raised)
    assert is_shortage(answer.error)


async def test_zygote_that_takes_no_order_ends_no_other_worker(workers: Workers, tmp_path: Path) -> None:
    """A starved one does not answer: a call is put off, a kill told later, and all others work on."""
    first = await workers.call(os.getpid, timeout_s=60, subject="vol-1")
    process = workers._zygote._process
    assert isinstance(process, subprocess.Popen)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        await until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        control = workers._zygote._control
        assert control is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                control.send(messages.encode(zygote.Kill(-1))[0])
        busy = workers._pool.take()
        with pytest.raises(ShortageError):
            workers._pool.take()
        workers._pool.abandon(busy, Job("hang", "vol-2"))
        assert workers._zygote._process is process
        assert is_running(first)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    await until(lambda: not workers._pool.dying)
    assert not is_running(first)
    assert workers._zygote._process is process
    await workers.call(sleep_then_write, str(tmp_path / "file"), 0.0, timeout_s=60, subject="vol-1")


async def test_result_that_cannot_travel_is_an_error(workers: Workers) -> None:
    """A result that cannot be sent fails its call and not the worker."""
    with pytest.raises(AgentError, match="failed"):
        await workers.call(return_what_cannot_be_sent, timeout_s=60, subject="a")
    assert await workers.call(abs, -1, timeout_s=60, subject="a") == 1


@pytest.mark.parametrize("crash", [os.abort, os._exit])
async def test_crash_is_a_failed_probe_and_hurts_nobody(workers: Workers, crash: object) -> None:
    """A library that takes its process down fails one call; the next one finds a new worker."""
    assert callable(crash)
    args = (0,) if crash is os._exit else ()
    with pytest.raises(AgentError) as caught:
        await workers.call(crash, *args, timeout_s=60, subject="a")
    assert caught.value.reason is Reason.PROBE_FAILED
    assert await workers.call(abs, -1, timeout_s=60, subject="a") == 1


async def test_descriptors_go_both_ways_and_none_is_left(workers: Workers, tmp_path: Path) -> None:
    """A worker's descriptor becomes the daemon's and back, and the worker keeps none."""
    (tmp_path / "file").write_text("content", "ascii")
    before = await workers.call(count_fds, timeout_s=60, subject="a")
    ours = count_fds()
    fd = await workers.call(open_file, str(tmp_path / "file"), timeout_s=60, subject="a")
    assert await workers.call(read_fd, fd, timeout_s=60, subject="a") == b"content"
    await workers.close(fd, subject="a")
    assert await workers.call(count_fds, timeout_s=60, subject="a") == before
    assert count_fds() == ours


async def test_slow_call_is_abandoned_and_its_worker_dies(workers: Workers, tmp_path: Path) -> None:
    """A call beyond its time raises Stalled, counts, and is killed before it can act late."""
    with pytest.raises(NotAnsweringError) as caught:
        await workers.call(sleep_then_write, str(tmp_path / "late"), 1.0, timeout_s=0.2, subject="vol-1")
    assert caught.value.reason is Reason.STALLED
    assert workers.abandoned == 1
    await until(lambda: not workers._pool.dying)
    await anyio.sleep(1.2)
    assert not (tmp_path / "late").exists()


async def test_subject_is_left_alone_while_its_worker_is_stuck(workers: Workers, tmp_path: Path) -> None:
    """While a worker about a volume cannot die, that volume gets no further one, and others are served."""
    await meet_in_workers(workers, tmp_path, 2)  # two workers are there from now on
    zygote_pid = find_parent(await workers.call(os.getpid, timeout_s=60, subject="vol-1"))
    # A stopped zygote kills nobody, which is how a worker in the kernel's hands looks from here.
    os.kill(zygote_pid, signal.SIGSTOP)
    try:
        with pytest.raises(NotAnsweringError):
            await workers.call(time.sleep, 60, timeout_s=0.5, subject="vol-1")
        assert {job.subject for job in workers._pool.dying.values()} == {"vol-1"}
        assert await workers.is_stuck("vol-1", patience_s=0.01)
        assert not await workers.is_stuck("vol-2")
        with pytest.raises(NotAnsweringError, match="still does not answer since it was asked to sleep"):
            await workers.call(abs, -1, timeout_s=60, subject="vol-1")
        assert await workers.call(abs, -1, timeout_s=60, subject="vol-2") == 1
    finally:
        os.kill(zygote_pid, signal.SIGCONT)
    assert not await workers.is_stuck("vol-1", patience_s=60)
    assert await workers.call(abs, -1, timeout_s=60, subject="vol-1") == 1


def make_worker() -> tuple[worker_lifecycle.Worker, socket.socket]:
    """Return a worker as the daemon has it, and the end of its socket that a test speaks at."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return worker_lifecycle.Worker(4711, ours), theirs


async def test_worker_that_speaks_unasked_is_not_used_again(workers: Workers) -> None:
    """What an idle worker says is no answer to the next call; it is let go, and another one is asked."""
    worker = workers._pool.take()
    assert isinstance(await worker.ask((os.getpid, ()), 60), zygote.Returned)
    spoken_to, theirs = make_worker()
    messages.send(theirs, zygote.Returned("first"))
    first = await spoken_to.receive(60)
    assert isinstance(first, zygote.Returned)
    messages.send(theirs, zygote.Returned("unasked"))
    await until(lambda: not spoken_to.is_alive)
    workers._pool.put_back(spoken_to)
    workers._pool.put_back(worker)
    found = [workers._pool.take(), workers._pool.take()]
    assert found[0] is worker
    assert found[1] is not spoken_to
    theirs.close()
    for one in found:
        workers._pool.put_back(one)


async def test_idle_worker_that_dies_costs_nothing_and_is_not_asked(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is heard once: nothing turns over it, and the next call has another worker."""
    heard: list[int] = []
    hear = worker_lifecycle.Worker._hear

    def count(worker: worker_lifecycle.Worker) -> None:
        heard.append(worker.number)
        hear(worker)

    monkeypatch.setattr(worker_lifecycle.Worker, "_hear", count)
    pid = await workers.call(os.getpid, timeout_s=60, subject="vol-1")
    heard.clear()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: bool(heard))
    await anyio.sleep(0.1)
    assert len(heard) == 1
    assert await workers.call(os.getpid, timeout_s=60, subject="vol-1") != pid


async def test_time_that_is_over_while_something_is_heard_is_over() -> None:
    """A daemon that got no processor hears a worker's first word and the end of its time at once."""
    worker, theirs = make_worker()

    async def hold_up() -> None:
        messages.send(theirs, messages.Started(17))
        time.sleep(0.2)  # noqa: ASYNC251 -- that is what is tested

    with theirs, anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold_up)
            assert await worker.receive(0.1) is None
    assert worker.pid == 17
    worker.end()


async def test_descriptors_said_unasked_are_closed(workers: Workers, tmp_path: Path) -> None:
    """Those of a worker that is let go for that: none stays in the daemon, which closes none itself."""
    (tmp_path / "file").touch()
    worker, theirs = make_worker()
    messages.send(theirs, zygote.Returned(None))
    assert await worker.receive(60) is not None
    workers._pool.put_back(worker)
    fd = os.open(tmp_path / "file", os.O_RDONLY | os.O_CLOEXEC)
    messages.send(theirs, zygote.Returned(Fd(fd)))
    os.close(fd)
    await until(lambda: bool(list_open(tmp_path / "file")))
    assert await workers.call(abs, -1, timeout_s=60, subject="vol-1") == 1
    await until(lambda: not list_open(tmp_path / "file"))
    theirs.close()


async def test_answer_after_the_time_is_over_is_nobodys(workers: Workers, tmp_path: Path) -> None:
    """With the descriptors in it: they are closed, and the worker is not asked again."""
    (tmp_path / "file").touch()
    worker, theirs = make_worker()
    assert await worker.receive(0.01) is None
    fd = os.open(tmp_path / "file", os.O_RDONLY | os.O_CLOEXEC)
    messages.send(theirs, zygote.Returned(Fd(fd)))
    os.close(fd)
    await until(lambda: not worker.is_alive)
    workers._pool.abandon(worker, Job("open_file", "vol-1"))
    theirs.close()
    await until(lambda: not workers._pool.dying)
    await until(lambda: not list_open(tmp_path / "file"))


async def test_question_larger_than_the_socket_takes_is_sent_in_time(workers: Workers) -> None:
    """In pieces, as the worker reads them; one that reads nothing is given up as if it did not answer."""
    text = "x" * (8 << 20)
    assert await workers.call(len, text, timeout_s=60, subject="vol-1") == len(text)
    worker, theirs = make_worker()
    with theirs:
        assert await worker.ask((len, (text,)), 0.1) is None
        worker.end()


async def test_stuck_worker_is_known_by_its_number(workers: Workers, tmp_path: Path) -> None:
    """A worker says its number before any answer, so where one waits that says no more can be looked up."""
    released: list[str] = []
    workers.on_release(released.append)
    with pytest.raises(NotAnsweringError) as caught:
        await workers.call(meet, str(tmp_path), 1, 2, timeout_s=0.5, subject="vol-1")
    assert not caught.value.may_be_frozen
    assert not workers.is_held_by_freeze("vol-1")
    await until(lambda: released == ["vol-1"])
    worker = workers._pool.take()
    answer = await worker.ask((os.getpid, ()), 60)
    assert isinstance(answer, zygote.Returned)
    assert worker.pid == answer.value
    workers._pool.put_back(worker)


def find_parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text("ascii")
    return int(stat.rpartition(")")[2].split()[1])


async def test_cancelled_call_is_killed_and_not_counted_as_stalled(workers: Workers) -> None:
    """A look that is given up takes its worker with it, and the volume can be asked again at once."""
    assert await workers.call(abs, -1, timeout_s=60, subject="vol-2") == 1  # what forks workers is there now
    with anyio.move_on_after(0.1):
        await workers.call(time.sleep, 60, timeout_s=100, subject="vol-1")
    assert workers.abandoned == 0
    assert await workers.call(abs, -1, timeout_s=60, subject="vol-1") == 1


async def test_descriptor_that_comes_too_late_is_closed(workers: Workers, tmp_path: Path) -> None:
    """An abandoned worker's descriptor never stays open in the daemon."""
    (tmp_path / "file").touch()
    for pause in (0.0, 0.01, 0.05):
        with anyio.move_on_after(pause):
            fd = await workers.call(
                open_then_sleep, str(tmp_path / "file"), pause, timeout_s=60, subject=f"{pause}"
            )
            await workers.close(fd, subject=f"{pause}")
        await until(lambda: not workers._pool.dying)
    assert not list_open(tmp_path / "file")


async def test_many_descriptors_are_closed_by_few_workers(workers: Workers, tmp_path: Path) -> None:
    """Volumes that are done with at the same time fork no worker each."""
    (tmp_path / "file").touch()
    fds = [Fd(os.open(tmp_path / "file", os.O_RDONLY | os.O_CLOEXEC)) for _ in range(100)]
    async with anyio.create_task_group() as tasks:
        for fd in fds:
            tasks.start_soon(partial(workers.close, fd, subject="a"))
    assert workers._pool.forked < len(fds) / 2


async def test_descriptor_is_closed_whatever_ends_meanwhile(workers: Workers, tmp_path: Path) -> None:
    """Even a pass that is being cancelled lets go of its device."""
    (tmp_path / "file").touch()
    fd = Fd(os.open(tmp_path / "file", os.O_RDONLY | os.O_CLOEXEC))
    with anyio.CancelScope() as ending:
        ending.cancel()
        await workers.close(fd, subject="a")
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


async def test_dead_zygote_is_replaced(workers: Workers) -> None:
    """When the kernel kills the zygote for memory, the next call starts another."""
    first = await workers.call(os.getpid, timeout_s=60, subject="a")
    os.kill(find_parent(first), signal.SIGKILL)
    await until(lambda: not is_running(first))
    assert await workers.call(os.getpid, timeout_s=60, subject="a") != first


async def test_workers_import_no_third_party_but_their_values(workers: Workers) -> None:
    """A worker has the standard library, msgspec and what it needs of this agent: small, quick to fork."""
    # Not by functions of this module, which would bring pytest.
    messages = "__import__('agent.node.isolate.messages').node.isolate.messages"
    opening = f"{messages}.Fd(__import__('os').open('/dev/null', 0))"
    fd: Fd = await workers.call(eval, opening, timeout_s=60, subject="a")
    await workers.close(fd, subject="a")
    loaded = await workers.call(
        eval,
        "{n: getattr(m, '__file__', None) for n, m in __import__('sys').modules.items()}",
        timeout_s=60,
        subject="a",
    )
    ours = ("agent", "msgspec", "typing_extensions")  # the last comes with msgspec
    others = {name for name, file in loaded.items() if file and "site-packages" in file}
    assert {name for name in others if name.partition(".")[0] not in ours} == set()
    assert {"asyncio", "agent.node.isolate.workers"}.isdisjoint(loaded)
    assert "agent.node.content.recognize" in loaded


def test_preloaded_modules_exist() -> None:
    """The list of preloaded modules names modules of this package that hold functions for workers."""
    for name in zygote.PRELOADED:
        path = Path(*name.split(".")).with_suffix(".py")
        source = (Path(zygote.__file__).parents[3] / path).read_text("utf-8")
        assert any(isinstance(node, ast.FunctionDef) for node in ast.parse(source).body)


BEGINNING = {
    "fresh interpreter": "zygote = None",
    "forked": "from agent.node.isolate.forked_zygote import fork_zygote; zygote = fork_zygote()",
}
DAEMON = """
import anyio, os, sys, time
from agent.node.isolate.workers import Workers

async def main():
    async with Workers(zygote) as workers:
        pid = await workers.call(os.getpid, timeout_s=60, subject="a")
        print(pid, os.getpid(), flush=True)
        await workers.call(time.sleep, 600, timeout_s=600, subject="a")

anyio.run(main)
"""


@pytest.mark.parametrize("beginning", BEGINNING)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_everything_dies_with_the_daemon(number: signal.Signals, beginning: str) -> None:
    """However the daemon ends, its zygote and a worker in the middle of a call end too."""
    with subprocess.Popen(
        [sys.executable, "-c", BEGINNING[beginning] + DAEMON],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as daemon:
        assert daemon.stdout is not None
        worker, pid = (int(word) for word in daemon.stdout.readline().split())
        parent = find_parent(worker)
        os.kill(pid, number)
        daemon.wait(WAIT_S)
    wait_until(lambda: not is_running(worker) and not is_running(parent), "zygote and worker ended")


FORKED = """
import json, os, signal, sys
kept = open(os.devnull)
os.set_inheritable(kept.fileno(), True)
os.environ["NOTIFY_SOCKET"] = "/run/not-for-workers"
from agent.node.isolate.forked_zygote import fork_zygote
zygote = fork_zygote()
import anyio
from agent.node.isolate.workers import Workers
from tests.unit.node.isolate.test_workers import is_running

async def main():
    async with Workers(zygote) as workers:
        async def ask(expression):
            return await workers.call(eval, expression, timeout_s=60, subject="a")
        modules = await ask("[*__import__('sys').modules]")
        descriptors = await ask("[__import__('os').readlink(f'/proc/self/fd/{fd}') for fd in (0, 1)]")
        count = await ask("len(__import__('os').listdir('/proc/self/fd'))")
        environment = await ask("dict(__import__('os').environ)")
        session = await ask("__import__('os').getsid(0)")
        worker, first = await ask("[__import__('os').getpid(), __import__('os').getppid()]")
        os.kill(first, signal.SIGKILL)
        while is_running(worker):
            await anyio.sleep(0.01)
        second = await ask("__import__('os').getppid()")
        print(json.dumps([modules, descriptors, count, environment, session == first, first != second]))

anyio.run(main)
"""


def test_a_forked_zygote_has_nothing_of_its_parent() -> None:
    """It is as a fresh interpreter, without the daemon's files and modules, and is replaced by one."""
    done = subprocess.run([sys.executable, "-c", FORKED], stdout=subprocess.PIPE, check=True, text=True)
    modules, descriptors, count, environment, is_own_session, is_replaced = json.loads(done.stdout)
    assert {"asyncio", "anyio", "agent.daemon", "agent.node.isolate.workers", "typer"}.isdisjoint(modules)
    assert descriptors == ["/dev/null", "/dev/null"]
    assert count == 6, "three standard ones, two of its own, and the directory being read"
    assert environment == zygote.ENVIRONMENT
    assert is_own_session
    assert is_replaced
