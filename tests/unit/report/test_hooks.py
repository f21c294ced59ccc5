from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import anyio
import pytest

from agent.core.errors import AgentError, RefusedError
from agent.core.model import NodeFacts
from agent.report.board.events import EventName
from agent.report.hook_files import list_hooks
from agent.report.hooks import MAX_PENDING, HookRunner, run_hook
from tests.unit.report.samples import CHECKPOINTS, DATASETS, READY, REFUSED, make_board

pytestmark = pytest.mark.anyio

Told = list[tuple[str, str, Mapping[str, str]]]


def make_hook(directory: Path, name: str = "10-tell", text: str = "#!/bin/sh\n", mode: int = 0o755) -> Path:
    hook = directory / name
    hook.write_text(text)
    hook.chmod(mode)
    return hook


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    directory = tmp_path / "hooks.d"
    directory.mkdir(mode=0o755)
    return directory


def test_runs_in_the_order_of_names(hooks: Path) -> None:
    """Programs with plain names are run in order; leftovers and files that are no programs are not."""
    for name in ("20-b.sh", "10-a", ".hidden", "README.md", "10-a~", "x.dpkg-old"):
        make_hook(hooks, name)
    make_hook(hooks, "15-off", mode=0o644)
    assert [hook.name for hook in list_hooks(hooks)] == ["10-a", "20-b.sh"]


def test_no_directory_is_no_hooks(tmp_path: Path) -> None:
    """A node without hooks has nothing to run, and nothing is wrong with it."""
    assert list_hooks(tmp_path / "hooks.d") == ()


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_directory_others_may_write_to(hooks: Path, mode: int) -> None:
    """Nothing is run from a directory that somebody else could put a program in."""
    make_hook(hooks)
    hooks.chmod(mode)
    with pytest.raises(RefusedError, match="others may write"):
        list_hooks(hooks)


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_hook_others_may_write_to(hooks: Path, mode: int) -> None:
    """One program that somebody else could change keeps all from being run."""
    make_hook(hooks, "10-good")
    make_hook(hooks, "20-bad", mode=mode)
    with pytest.raises(RefusedError, match="20-bad"):
        list_hooks(hooks)


def test_hook_of_another_user(hooks: Path) -> None:
    """A directory that belongs to another user than root is not trusted."""
    make_hook(hooks)
    with pytest.raises(RefusedError, match="belongs to user"):
        list_hooks(hooks, owner_uid=hooks.stat().st_uid + 1)


def test_linked_hook(hooks: Path, tmp_path: Path) -> None:
    """A symbolic link is not followed: what it leads to may be anyone's."""
    (hooks / "10-link").symlink_to(make_hook(tmp_path, "elsewhere"))
    with pytest.raises(RefusedError, match="not a file"):
        list_hooks(hooks)


@pytest.mark.parametrize(("mode", "is_trusted"), [(0o775, False), (0o757, False), (0o1777, True)])
def test_a_parent_others_may_write_to(hooks: Path, mode: int, is_trusted: bool) -> None:  # noqa: FBT001
    """Nothing is run from below a directory in which somebody else could put another in the place of ours."""
    place = hooks / "deep/etc/hooks.d"
    place.mkdir(parents=True)
    make_hook(place)
    (hooks / "deep").chmod(mode)
    if is_trusted:
        assert len(list_hooks(place)) == 1
    else:
        with pytest.raises(
            RefusedError, match=r"deep, which leads to .*hooks\.d, can be written to by others"
        ):
            list_hooks(place)


def test_a_link_in_the_way_leads_below_trusted_directories_only(hooks: Path) -> None:
    """Where a directory above is a link, those it leads through count too."""
    (hooks / "open/etc/hooks.d").mkdir(parents=True)
    make_hook(hooks / "open/etc/hooks.d")
    (hooks / "etc").symlink_to("open/etc")
    assert len(list_hooks(hooks / "etc/hooks.d")) == 1
    (hooks / "open").chmod(0o777)
    with pytest.raises(RefusedError, match="open, which leads to"):
        list_hooks(hooks / "etc/hooks.d")


async def tell(hooks: Path, *events: EventName, expected: int, failing: str = "") -> tuple[Told, list[str]]:
    """Record ``events`` of one volume while hooks run; return what hooks were told, and failures recorded."""
    board = make_board(READY)
    told: Told = []
    is_enough = anyio.Event()

    async def run(program: Path, word: str, environment: Mapping[str, str]) -> None:
        told.append((program.name, word, environment))
        if len(told) >= expected:
            is_enough.set()
        if program.name == failing:
            raise AgentError("It failed.")

    runner = HookRunner(board, hooks, lambda: NodeFacts(instance_name="compute-1"), run)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runner.run, board.history.next_number - 1)
        for event in events:
            board.record(event, CHECKPOINTS, reason="Stalled", message="It does\nnot answer.")
        with anyio.fail_after(60):
            await is_enough.wait()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    failures = [str(e.fields["error"]) for e in board.history.latest() if e.name is EventName.HOOK_FAILED]
    return told, failures


async def test_told_with_the_facts(hooks: Path) -> None:
    """A hook finds in its environment what happened to which volume; other events are not told."""
    make_hook(hooks)
    told, failures = await tell(hooks, EventName.VOLUME_MOUNTED, EventName.VOLUME_FAILED, expected=1)
    assert failures == []
    ((name, word, facts),) = told
    assert (name, word) == ("10-tell", "failed")
    assert facts["EBS_AGENT_EVENT"] == "failed"
    assert facts["EBS_AGENT_VOLUME_ID"] == CHECKPOINTS
    assert facts["EBS_AGENT_NAME"] == "checkpoints"
    assert facts["EBS_AGENT_PATH"] == "/data/ckpt"
    assert facts["EBS_AGENT_REASON"] == "Stalled"
    assert facts["EBS_AGENT_MESSAGE"] == "It does not answer."
    assert facts["EBS_AGENT_REQUIRED"] == "1"
    assert facts["EBS_AGENT_INSTANCE_NAME"] == "compute-1"
    assert facts["EBS_AGENT_INSTANCE_ID"] == ""


async def test_failure_is_recorded_and_the_next_hook_runs(hooks: Path) -> None:
    """A hook that fails is an event, and keeps no other from running."""
    make_hook(hooks, "10-bad")
    make_hook(hooks, "20-good")
    told, failures = await tell(hooks, EventName.VOLUME_READY, expected=2, failing="10-bad")
    assert [name for name, _, _ in told] == ["10-bad", "20-good"]
    assert failures == ["It failed."]


async def test_untrusted_directory_is_told_once(hooks: Path) -> None:
    """What is wrong with the directory is said once, not at each event."""
    make_hook(hooks, mode=0o777)
    board = make_board(READY, REFUSED)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(HookRunner(board, hooks).run)
        await anyio.wait_all_tasks_blocked()
        for volume in (CHECKPOINTS, DATASETS, CHECKPOINTS):
            board.record(EventName.VOLUME_LOST, volume)
            await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    failed = [event for event in board.history.latest() if event.name is EventName.HOOK_FAILED]
    assert len(failed) == 1


async def test_hanging_hook_piles_nothing_up(hooks: Path) -> None:
    """While a volume's hook hangs its newest events wait, a bounded number, and other volumes' hooks run."""
    make_hook(hooks)
    board = make_board(READY, REFUSED)
    numbers: list[int] = []
    others: list[str] = []
    may_end = anyio.Event()

    async def run(_: Path, _word: str, environment: Mapping[str, str]) -> None:
        if environment["EBS_AGENT_VOLUME_ID"] == DATASETS:
            others.append(environment["EBS_AGENT_EVENT"])
            return
        numbers.append(int(environment["EBS_AGENT_EVENT_NUMBER"]))
        await may_end.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(HookRunner(board, hooks, run=run).run)
        await anyio.wait_all_tasks_blocked()
        for _ in range(MAX_PENDING + 10):
            board.record(EventName.VOLUME_READY, CHECKPOINTS)
            await anyio.wait_all_tasks_blocked()
        board.record(EventName.VOLUME_GROWN, DATASETS)
        await anyio.wait_all_tasks_blocked()
        assert others == ["grown"]
        may_end.set()
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert numbers == [1, *range(11, 27)]


async def test_real_hook(hooks: Path, tmp_path: Path) -> None:
    """A hook is a program: it gets the word as its argument, and how it ends is told with its last lines."""
    hook = make_hook(
        hooks, text=f'#!/bin/sh\necho "$1 $EBS_AGENT_NAME" > {tmp_path}/told\necho no room >&2\nexit 3\n'
    )
    with pytest.raises(AgentError, match="10-tell ended with 3: no room"):
        await run_hook(hook, "ready", {"EBS_AGENT_NAME": "ckpt", "PATH": "/nowhere"})
    assert (tmp_path / "told").read_text() == "ready ckpt\n"


async def test_what_was_looked_at_is_what_is_run(hooks: Path) -> None:
    """A hook is opened once, without following a link, and run by its descriptor; it can learn its path."""
    said = hooks / "said"
    hook = make_hook(hooks, text=f'#!/bin/sh\necho "$0 $EBS_AGENT_HOOK $(readlink -f "$0")" > {said}\n')
    await run_hook(hook, "ready", {})
    name, path, found = said.read_text().split()
    assert name.startswith("/proc/self/fd/")
    assert path == found == str(hook)
    linked = hooks / "20-link"
    linked.symlink_to(hook)
    with pytest.raises(OSError, match="symbolic links"):
        await run_hook(linked, "ready", {})
    hook.chmod(0o777)
    with pytest.raises(RefusedError, match="others may write"):
        await run_hook(hook, "ready", {})
