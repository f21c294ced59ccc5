"""The command line's client and the daemon's control socket, talking over a real Unix socket."""

from __future__ import annotations

import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from agent.base.paths import choose_looking_path
from agent.cli.client import Client
from agent.cli.doctor import Grade
from agent.cli.doctor.installation import list_drift
from agent.cli.wait import wait_for
from agent.core.errors import AgentError, ExitCode
from agent.core.model import Condition, Difference, NextCall, Reason, Remedy, VolumeId
from agent.core.replace import replace
from agent.core.steps import Refuse
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.board.readings import Health, Verdict
from agent.report.board.volume_status import VolumeStatus
from agent.report.control.serve import serve_control
from agent.report.endpoints.control import make_control_app
from tests.unit.report.samples import CHECKPOINTS, DATASETS, NOON, READY, REFUSED, make_board, make_status

pytestmark = pytest.mark.anyio
T = TypeVar("T")


class ScriptedEngine:
    """An engine that answers from the board and notes what it was asked."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.woken: list[VolumeId | None] = []
        self.reload_error: AgentError | None = None
        self.leaving: tuple[str, ...] = ()
        self.found: dict[VolumeId, VolumeStatus] = {}
        """What it finds on the node; of other volumes, what the board has."""

    async def plan(self) -> tuple[VolumeStatus, ...]:
        return tuple(self.found.values()) or self.board.statuses()

    async def explain(self, volume_id: VolumeId) -> VolumeStatus:
        status = self.found.get(volume_id) or self.board.get(volume_id)
        assert status is not None
        return replace(status, facts=(("device", "looked at just now"),))

    async def reload(self) -> tuple[str, ...]:
        if self.reload_error is not None:
            raise self.reload_error
        return self.leaving

    def wake(self, volume_id: VolumeId | None) -> None:
        self.woken.append(volume_id)


@asynccontextmanager
async def serving(board: Board, path: Path) -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine(board)
    async with anyio.create_task_group() as tasks:
        await tasks.start(serve_control, lambda: make_control_app(board, engine), path)
        yield engine
        tasks.cancel_scope.cancel()


async def ask(function: Callable[..., T], *args: Any) -> T:
    """Call the blocking client beside the event loop that answers it."""
    with anyio.fail_after(60):
        return await anyio.to_thread.run_sync(function, *args, abandon_on_cancel=True)


async def test_status_tells_every_volume(tmp_path: Path) -> None:
    """``status`` answers the whole board, and one volume by name or ID."""
    path = tmp_path / "agent.sock"
    async with serving(make_board(READY, REFUSED), path):
        node = await ask(Client(path).status)
        volume = await ask(Client(path).volume_status, DATASETS)
    assert [v["name"] for v in node["volumes"]] == ["checkpoints", "datasets"]
    assert node["ready"] is True
    assert (volume["condition"], volume["reason"], volume["hint"]) == (
        "Refused",
        "NotBlank",
        "Mount it with format: never.",
    )


async def test_socket_is_for_root_and_its_group(tmp_path: Path) -> None:
    """One is root's, and beside it is another for the group; their modes let nobody else in, and both go."""
    path = tmp_path / "run" / "agent.sock"
    looking = choose_looking_path(path)
    async with serving(make_board(), path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(looking.stat().st_mode) == 0o660
    assert not path.exists()
    assert not looking.exists()


async def test_second_agent_is_refused(tmp_path: Path) -> None:
    """An agent does not take the socket from one that answers, and does take it from a dead one."""
    path = tmp_path / "agent.sock"
    async with serving(make_board(READY), path):
        with pytest.raises(AgentError, match="already answers"):
            await serve_control(lambda: make_control_app(make_board(), ScriptedEngine(make_board())), path)
        assert (await ask(Client(path).status))["ready"] is True


async def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed agent left behind does not keep the next one from starting."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(make_board(READY), path):
        assert (await ask(Client(path).status))["ready"] is True


async def test_unknown_volume_is_wrong_usage(tmp_path: Path) -> None:
    """The agent's own error, hint and exit code reach the command line."""
    path = tmp_path / "agent.sock"
    async with serving(make_board(READY), path):
        with pytest.raises(AgentError) as caught:
            await ask(Client(path).explain, "typo")
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hint == "Volumes known here: checkpoints."


async def test_explain_looks_anew(tmp_path: Path) -> None:
    """``explain`` shows what the engine finds now, not what the board remembers."""
    path = tmp_path / "agent.sock"
    async with serving(make_board(READY), path):
        answer = await ask(Client(path).explain, "checkpoints")
    assert answer["facts"] == [{"name": "device", "value": "looked at just now"}]


async def test_plan_and_explain_agree_with_status(tmp_path: Path) -> None:
    """Whoever looked anew says all that is known beside it: by sampling, AWS and Kubernetes."""
    path = tmp_path / "agent.sock"
    waiting = make_status(volume_id=DATASETS, name="datasets", device=None, path=None)
    waiting = replace(waiting, condition=Condition.PENDING, reason=Reason.NOT_ATTACHED)
    board = make_board(READY, waiting)
    stalled = Verdict(Condition.FAILED, Reason.STALLED, "checkpoints does not answer.", "Wait.")
    board.judge(CHECKPOINTS, Health(verdicts=(stalled,)))
    board.put_persistent_volumes({CHECKPOINTS: "pv-1"})
    board.put_claims({CHECKPOINTS: "team/checkpoints"})
    refused = Refuse(Reason.MANAGED_BY_CSI, "datasets is the CSI driver's.", "Take it out of the policy.")
    board.explain_by_cloud({"datasets": refused}, {})
    async with serving(board, path) as engine:
        engine.found = {CHECKPOINTS: READY, DATASETS: waiting}
        client = Client(path)
        for name, condition, reason in (
            ("checkpoints", "Failed", "Stalled"),
            ("datasets", "Refused", "ManagedByCsi"),
        ):
            shown = await ask(client.volume_status, name)
            (planned,) = [one for one in (await ask(client.plan))["volumes"] if one["name"] == name]
            explained = await ask(client.explain, name)
            assert (shown["condition"], shown["reason"]) == (condition, reason)
            kept = (
                *("condition", "reason", "message", "hint", "since", "verdicts", "drift"),
                *("persistent_volume", "persistent_volume_claim"),
            )
            for key in kept:
                assert planned[key] == explained[key] == shown[key], key


async def test_drift_is_shown_whatever_else_is_wrong(tmp_path: Path) -> None:
    """What a volume is not as its claim says is in status, explain and doctor, beside its own troubles."""
    full = replace(READY, condition=Condition.DEGRADED, reason=Reason.NEARLY_FULL)
    board = make_board(full, REFUSED)
    drift = Difference("iops", "6000", "3000", Remedy.LATER)
    board.explain_by_cloud({}, {}, drift={"checkpoints": (drift,)})
    text = "iops is 6000, should be 3000 (changed when AWS allows it)"
    shown = {"what": "iops", "is": "6000", "should_be": "3000", "remedy": "later", "text": text}
    async with serving(board, tmp_path / "control.sock"):
        client = Client(tmp_path / "control.sock")
        answer = await ask(client.status)
        assert [volume["drift"] for volume in answer["volumes"]] == [[shown], []]
        assert (await ask(client.explain, "checkpoints"))["drift"] == [shown]
        (finding,) = await ask(lambda: list(list_drift(tmp_path / "control.sock")))
    assert (finding.subject, finding.grade) == ("volume checkpoints", Grade.WARNING)
    assert text in finding.found


async def test_what_will_be_deleted_is_told(tmp_path: Path) -> None:
    """``reload`` says what it will have deleted, and ``plan`` when."""
    path = tmp_path / "agent.sock"
    board = make_board(READY)
    board.explain_by_cloud({}, {}, {VolumeId("vol-0123456789abcdef0"): "it is deleted after noon"})
    async with serving(board, path) as engine:
        engine.leaving = ("Claim 'x' is no longer in the policy.",)
        assert (await ask(Client(path).reload))["departures"] == [{"text": engine.leaving[0]}]
        board.next_calls = (NextCall("ckpt", None, "CreateVolume", "make a volume", NOON, "it waits"),)
        plan = await ask(Client(path).plan)
        (call,), (departure,) = plan["cloud"], plan["departures"]
        assert call == {
            "name": "ckpt",
            "volume_id": None,
            "operation": "CreateVolume",
            "text": "make a volume",
            "at": "2026-01-02T12:00:00.000Z",
            "why": "it waits",
        }
        assert departure == {"volume_id": "vol-0123456789abcdef0", "text": "it is deleted after noon"}


async def test_rejected_reload_is_told(tmp_path: Path) -> None:
    """A policy the engine rejects makes the command fail with the engine's sentence."""
    path = tmp_path / "agent.sock"
    async with serving(make_board(READY), path) as engine:
        await ask(Client(path).reload)
        engine.reload_error = AgentError("The policy has 2 problems.", exit_code=ExitCode.USAGE)
        with pytest.raises(AgentError, match="2 problems"):
            await ask(Client(path).reload)


async def test_reconcile_wakes_one_or_all(tmp_path: Path) -> None:
    """A volume is woken by its ID however it was called; nothing named wakes all."""
    path = tmp_path / "agent.sock"
    async with serving(make_board(READY), path) as engine:
        await ask(Client(path).reconcile, "checkpoints")
        await ask(Client(path).reconcile)
    assert engine.woken == [CHECKPOINTS, None]


async def test_nobody_there_is_exit_code_4(tmp_path: Path) -> None:
    """Without an agent the client says which socket it tried and how to start one."""
    with pytest.raises(AgentError) as caught:
        await ask(Client(tmp_path / "agent.sock").status)
    assert caught.value.exit_code is ExitCode.NO_ANSWER
    assert str(tmp_path) in caught.value.message


async def test_wait_ends_when_the_volume_is_ready(tmp_path: Path) -> None:
    """``wait`` returns as soon as the last volume waited for can be used."""
    path = tmp_path / "agent.sock"
    board = make_board(make_status(condition=Condition.PREPARING))
    async with serving(board, path), anyio.create_task_group() as tasks:
        tasks.start_soon(ask, wait_for, Client(path), ["checkpoints"], 8.0)
        await anyio.sleep(0.2)  # long enough that the wait has most likely begun; correct either way
        board.publish(READY)


async def test_wait_begins_before_the_agent(tmp_path: Path) -> None:
    """At boot ``wait`` may start first: it keeps trying until the agent answers."""
    path = tmp_path / "agent.sock"
    is_over = anyio.Event()

    async def wait() -> None:
        await ask(wait_for, Client(path), [], 8.0)
        is_over.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(0.1)  # long enough for a first vain attempt; correct either way
        async with serving(make_board(READY), path):
            await is_over.wait()


async def test_wait_gives_up_in_time_and_says_why(tmp_path: Path) -> None:
    """Not ready in time is exit code 3, naming volume, condition and reason."""
    path = tmp_path / "agent.sock"
    async with serving(make_board(READY, REFUSED), path):
        with pytest.raises(AgentError, match=r"datasets is Refused \(NotBlank\)") as caught:
            await ask(wait_for, Client(path), ["datasets"], 0.3)
    assert caught.value.exit_code is ExitCode.NOT_READY


async def test_wait_without_an_agent_is_no_answer(tmp_path: Path) -> None:
    """Where no agent came up at all, the exit code says so rather than that volumes are not ready."""
    with pytest.raises(AgentError) as caught:
        await ask(wait_for, Client(tmp_path / "agent.sock"), [], 0.1)
    assert caught.value.exit_code is ExitCode.NO_ANSWER


async def test_events_are_followed(tmp_path: Path) -> None:
    """``events`` prints what is kept, and with --follow what comes, under the names of the log."""
    path = tmp_path / "agent.sock"
    board = make_board()
    board.record(EventName.VOLUME_ATTACHED, CHECKPOINTS, device="/dev/nvme1n1")
    async with serving(board, path):
        kept: list[dict[str, Any]] = await ask(list, Client(path).events())
        assert [event["event"] for event in kept] == ["volume.attached"]
        followed = Client(path).events(follow=True)
        assert (await ask(next, followed))["device"] == "/dev/nvme1n1"
        board.record(EventName.VOLUME_READY, CHECKPOINTS)
        assert (await ask(next, followed))["event"] == "volume.ready"
        await ask(followed.close)  # type: ignore[attr-defined]  # it is a generator


async def test_socket_path_too_long_for_the_kernel_is_said(tmp_path: Path) -> None:
    """A path no Unix socket can have is refused with the option that mends it."""
    path = tmp_path / ("x" * 90) / "agent.sock"
    with pytest.raises(AgentError, match="107 bytes") as caught:
        await serve_control(lambda: make_control_app(make_board(), ScriptedEngine(make_board())), path)
    assert "--root" in str(caught.value.hint)
