from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agent.core.errors import AgentError, NotAnsweringError, ShortageError
from agent.core.model import Reason
from agent.node.isolate import programs
from agent.node.isolate.installed_programs import SEARCH_PATH, find_program
from tests.descriptors import used_up_descriptors
from tests.waiting import until

pytestmark = pytest.mark.anyio


async def test_returns_output_and_status() -> None:
    """Both streams and the exit status come back, whatever the program wrote first."""
    completed = await programs.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=60, check=(0, 3))
    assert (completed.returncode, completed.stdout, completed.stderr) == (3, "out\n", "err\n")


async def test_what_it_wrote_to_disks_is_counted(tmp_path: Path) -> None:
    """As the kernel does, whenever it ended; what is written to a pipe is none of it."""
    file = tmp_path / "file"
    completed = await programs.run(["sh", "-c", f"head -c 10000 /dev/zero > {file}"], timeout_s=60)
    found = await programs.run(["stat", "-f", "-c", "%T", str(file)], timeout_s=60)
    # With what the filesystem notes of the file, on a disk; a tmpfs has none.
    least_bytes = 0 if found.stdout == "tmpfs\n" else 12288
    assert completed.written_bytes is not None
    assert completed.written_bytes >= least_bytes
    await programs.run(
        ["true"], timeout_s=60
    )  # when it was read first is written to its own disk, once a day
    completed = await programs.run(["true"], timeout_s=60)
    assert completed.written_bytes == 0


@pytest.mark.parametrize(
    ("counts", "written_bytes"),
    [
        ("write_bytes: 8192\ncancelled_write_bytes: 0\n", 8192),
        ("write_bytes: 8192\ncancelled_write_bytes: 4096\n", None),
        ("write_bytes: 8192\n", None),
        ("write_bytes: many\n", None),
        ("", None),
        (None, None),
    ],
    ids=["told", "some taken back", "not whether taken back", "nonsense", "nothing", "no such file"],
)
def test_what_was_written_is_known_or_not(
    tmp_path: Path, counts: str | None, written_bytes: int | None
) -> None:
    """What was taken back before it came to a disk may or may not have come there."""
    (tmp_path / "17").mkdir()
    if counts is not None:
        (tmp_path / "17/io").write_text(counts)
    assert programs.count_written(17, tmp_path) == written_bytes


async def test_feeds_input_larger_than_a_pipe() -> None:
    """Input and output flow at once, so neither waits for the other for ever."""
    text = "x" * 300_000
    completed = await programs.run(["cat"], timeout_s=60, input=text)
    assert completed.stdout == text


async def test_program_that_ignores_its_input_is_no_error() -> None:
    """A program may end without reading what it was given."""
    completed = await programs.run(["true"], timeout_s=60, input="x" * 1_000_000)
    assert completed.returncode == 0


async def test_unexpected_status_carries_the_programs_last_words() -> None:
    """A failure names the program, its status and what it said."""
    with pytest.raises(AgentError, match=r"sh ended with 4: first; no space left") as caught:
        await programs.run(["sh", "-c", "echo first >&2; echo 'no  space left' >&2; exit 4"], timeout_s=60)
    assert caught.value.reason is Reason.STEP_FAILED


async def test_death_by_signal_is_named() -> None:
    """A program that was killed by someone else failed, and by which signal."""
    with pytest.raises(AgentError, match="ended by signal 11"):
        await programs.run(["sh", "-c", "kill -SEGV $$"], timeout_s=60)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("mkfs.xfs", ("apt-get install xfsprogs", "dnf install xfsprogs")),
        ("sfdisk", ("apt-get install fdisk", "dnf install util-linux")),
        ("mkfs.btrfs", ("apt-get install btrfs-progs", "Amazon Linux 2023 has none")),
    ],
)
def test_missing_program_names_its_package(program: str, words: tuple[str, ...]) -> None:
    """The hint is the package to install, or that a system has none."""
    with pytest.raises(AgentError) as caught:
        find_program(program, search_path="/nonexistent")
    assert all(word in str(caught.value.hint) for word in words), caught.value.hint


async def test_environment_holds_nothing_of_the_daemons(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child sees no secret, a fixed path and untranslated messages."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    completed = await programs.run(["env"], timeout_s=60)
    assert set(completed.stdout.splitlines()) >= {"LC_ALL=C.UTF-8", f"PATH={SEARCH_PATH}"}
    assert "hush" not in completed.stdout


async def test_passed_descriptor_keeps_its_number(tmp_path: Path) -> None:
    """A child opens by /proc/self/fd what the daemon has open, and nothing else is inherited."""
    path = tmp_path / "file"
    path.write_text("kept")
    fd = os.open(path, os.O_RDONLY)
    other = os.open(path, os.O_RDONLY)
    os.set_inheritable(other, True)
    try:
        completed = await programs.run(
            ["sh", "-c", f"cat {programs.descriptor_path(fd)}; test -e /proc/self/fd/{other} || echo none"],
            timeout_s=60,
            pass_fds=[fd],
        )
    finally:
        os.close(fd)
        os.close(other)
    assert completed.stdout == "keptnone\n"


async def test_late_program_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """At the timeout the whole session dies, so nothing goes on writing behind the agent's back."""
    pids = tmp_path / "pids"
    script = f"echo $$ >{pids}; sleep 999 & echo $! >>{pids}; wait"
    for timeout_s in (0.3, 3, 30):  # a busy machine may need longer to get so far
        with pytest.raises(NotAnsweringError, match=f"did not end within {timeout_s:g} s"):
            await programs.run(["sh", "-c", script], timeout_s=timeout_s)
        if len(pids.read_text().split() if pids.exists() else ()) == 2:
            break
    await until(lambda: not any(_is_running(int(pid)) for pid in pids.read_text().split()))


TRAP = "trap 'echo well >{path}; exit 0' TERM; echo ready >{path}; while :; do sleep 0.01; done"


async def test_program_that_is_cancelled_may_end_in_good_order(tmp_path: Path) -> None:
    """e2fsck and sfdisk leave things whole when they are told to end, and not when they are killed."""
    path = tmp_path / "how"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: programs.run(["sh", "-c", TRAP.format(path=path)], timeout_s=60))
        await until(lambda: path.exists() and path.read_text() == "ready\n")
        tasks.cancel_scope.cancel()
    assert path.read_text() == "well\n"


async def test_late_program_may_end_in_good_order(tmp_path: Path) -> None:
    """At the timeout as well."""
    path = tmp_path / "how"
    for timeout_s in (0.3, 3, 30):  # a busy machine may need longer to get so far
        with pytest.raises(NotAnsweringError):
            await programs.run(["sh", "-c", TRAP.format(path=path)], timeout_s=timeout_s)
        if path.exists():
            break
    assert path.read_text() == "well\n"


async def test_program_that_does_not_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """One that heeds no SIGTERM dies after a grace, and so does what one left that did."""
    pids = tmp_path / "pids"
    deaf = "trap '' TERM; echo $$ >>{pids}; while :; do sleep 0.01; done"
    script = (
        f"sh -c '{deaf.format(pids=pids).replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}' & wait"
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: programs.run(["sh", "-c", script], timeout_s=60))
        tasks.start_soon(lambda: programs.run(["sh", "-c", deaf.format(pids=pids)], timeout_s=60))
        await until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        tasks.cancel_scope.cancel()
    await until(lambda: not any(_is_running(int(pid)) for pid in pids.read_text().split()))


async def test_program_is_ended_also_without_a_descriptor_left(tmp_path: Path) -> None:
    """A full table of descriptors keeps nobody from being killed."""
    pid_path = tmp_path / "pid"
    async with anyio.create_task_group() as tasks:
        script = f"echo $$ >{pid_path}; exec sleep 99"
        tasks.start_soon(lambda: programs.run(["sh", "-c", script], timeout_s=60))
        await until(lambda: pid_path.exists() and pid_path.read_text())
        pid = int(pid_path.read_text())
        with used_up_descriptors():
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for _ in range(20):
                    await anyio.lowlevel.checkpoint()
    await until(lambda: not _is_running(pid))


async def test_program_that_cannot_be_started_for_want_of_descriptors_is_a_shortage() -> None:
    """It says nothing about what the program was to be asked."""
    with used_up_descriptors(), pytest.raises(ShortageError, match="cat could not be started"):
        await programs.run(["cat"], timeout_s=60)


async def test_cancelled_run_leaves_no_child(tmp_path: Path) -> None:
    """Cancelling the task that runs a program ends the program before the task ends."""
    pid_path = tmp_path / "pid"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(
            lambda: programs.run(["sh", "-c", f"echo $$ >{pid_path}; exec sleep 99"], timeout_s=60)
        )
        await until(lambda: pid_path.exists() and pid_path.read_text())
        tasks.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_path.read_text()), 0)


async def test_grandchild_holding_the_pipes_does_not_hold_the_run(tmp_path: Path) -> None:
    """A run ends with its program, though something the program left behind keeps its output open."""
    pid_path = tmp_path / "pid"
    completed = await programs.run(["sh", "-c", f"sleep 50 & echo $! >{pid_path}; echo done"], timeout_s=100)
    assert completed.stdout == "done\n"
    left = int(pid_path.read_text())
    assert _is_running(left), "the run waited for what the program left behind"
    os.kill(left, signal.SIGKILL)


TELL_ALL_AND_END = """
import fcntl, os, sys
fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
os.write(1, b"x" * (800 << 10))
os._exit(0)
"""


async def test_nothing_is_lost_where_the_time_to_read_on_is_too_short() -> None:
    """Where each turn of the event loop takes long, what the program wrote comes back all the same."""

    def hold_up() -> None:
        time.sleep(0.1)
        loop.call_soon(hold_up)

    loop = asyncio.get_running_loop()
    loop.call_soon(hold_up)
    argv = [sys.executable, "-I", "-S", "-c", TELL_ALL_AND_END]
    completed = await programs.run(argv, timeout_s=600)
    assert len(completed.stdout) == 800 << 10


async def test_output_is_bounded() -> None:
    """Of a program that never stops talking the first words and the last MiB are kept."""
    script = "echo begin; head -c 5000000 /dev/zero | tr '\\0' x; echo end"
    completed = await programs.run(["sh", "-c", script], timeout_s=60)
    head, between, tail = completed.stdout.partition("\n[...]\n")
    assert (len(head), bool(between), len(tail)) == (1 << 16, True, 1 << 20)
    assert head.startswith("begin\nx")
    assert tail.endswith("xend\n")


async def test_output_that_fits_is_whole() -> None:
    """Up to what is kept of a long one nothing is left out, and the words that say so are not there."""
    size = (1 << 16) + (1 << 20)
    completed = await programs.run(["sh", "-c", f"head -c {size} /dev/zero | tr '\\0' x"], timeout_s=60)
    assert completed.stdout == "x" * size


async def test_runs_concurrently_without_mixing() -> None:
    """Many programs at once each get their own output and status."""
    results: dict[int, programs.Completed] = {}

    async def run_one(number: int) -> None:
        argv = ["sh", "-c", f"echo {number}; exit {number}"]
        results[number] = await programs.run(argv, timeout_s=60, check=(number,))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(run_one, number)
    assert {number: (done.returncode, done.stdout) for number, done in results.items()} == {
        number: (number, f"{number}\n") for number in range(20)
    }


def test_summary_is_one_short_printable_line() -> None:
    """What a program says is cleaned before it reaches a log or a terminal."""
    noisy = programs.Completed(("x",), 1, "", "a\n" * 50 + "\x1b[31mred\x1b[0m" + "y" * 1000)
    summary = noisy.summarize()
    assert summary.isprintable()
    assert len(summary) <= 400


def _is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "\nState:\tZ" not in status.read_text()
