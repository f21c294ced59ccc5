"""What AWS's own status checks make of a volume's condition, and how they are shown."""

from __future__ import annotations

import pytest
from rich.console import Console

from agent.cli.show.render import show_volume
from agent.cli.show.volume_table import show_volumes
from agent.core.model import AwsChecks, Condition, Initialization, Reason
from agent.core.replace import replace
from agent.report.api import show_status
from agent.report.board.board import Board
from agent.report.board.readings import Health, Verdict
from agent.report.board.volume_status import VolumeStatus
from agent.report.metrics.volume_metrics import render_series
from tests.unit.report.samples import CHECKPOINTS, READY, make_status

WELL = AwsChecks("ok", is_io_enabled=True, io_performance="normal")
COMING = AwsChecks("ok", True, "normal", Initialization(42, 600, "provisioned-rate"))
CUT_OFF = AwsChecks("impaired", is_io_enabled=False, events=("potential-data-inconsistency: host failed",))


def show(checks: AwsChecks, status: VolumeStatus = READY, health: Health | None = None) -> VolumeStatus:
    board = Board()
    board.publish(status)
    board.judge(CHECKPOINTS, health)
    board.put_checks({CHECKPOINTS: checks})
    return board.statuses()[0]


@pytest.mark.parametrize(
    ("checks", "condition"),
    [
        (WELL, Condition.READY),
        (COMING, Condition.READY),
        (AwsChecks("insufficient-data", io_performance="insufficient-data"), Condition.READY),
        (AwsChecks("warning", io_performance="degraded"), Condition.DEGRADED),
        (AwsChecks("impaired", io_performance="stalled"), Condition.DEGRADED),
        (AwsChecks("impaired"), Condition.DEGRADED),
        (CUT_OFF, Condition.FAILED),
    ],
)
def test_condition_follows_what_aws_finds(checks: AwsChecks, condition: Condition) -> None:
    """I/O that is switched off is a failure, what is slow is Degraded, what is not known is no fault."""
    status = show(checks)
    assert status.condition is condition
    assert status.reason is (None if condition is Condition.READY else Reason.IMPAIRED)
    if status.reason:
        assert "checkpoints" in status.message
        assert status.hint


def test_what_the_node_measures_comes_first() -> None:
    """A stall found here is the condition, and AWS's verdict stands beside it."""
    stalled = Verdict(Condition.FAILED, Reason.STALLED, "does not answer", "wait")
    status = show(AwsChecks("impaired", io_performance="stalled"), health=Health(verdicts=(stalled,)))
    assert status.reason is Reason.STALLED
    assert [one["reason"] for one in show_status(status)["verdicts"]] == ["Stalled", "Impaired"]


def test_volume_that_is_not_in_use_keeps_its_condition() -> None:
    """Of a volume the policy does not name, AWS's checks are shown and make no problem."""
    status = show(CUT_OFF, make_status(condition=Condition.UNMANAGED, name=None))
    assert status.condition is Condition.UNMANAGED
    assert "volume_problem" not in "".join(render_series(status))
    for reason in (Reason.ROOT_DEVICE, Reason.NOT_IN_POLICY, Reason.MANAGED_BY_CSI):
        left_alone = replace(status, reason=reason)
        assert "volume_problem" not in "".join(render_series(left_alone))
    assert "volume_impaired" in "".join(render_series(status))


def test_checks_that_are_known_no_more_are_shown_no_more() -> None:
    """A verdict goes with the checks it came from."""
    board = Board()
    board.publish(READY)
    board.put_checks({CHECKPOINTS: CUT_OFF})
    board.put_checks({})
    status = board.statuses()[0]
    assert (status.condition, status.checks) == (Condition.READY, None)


def test_checks_are_metrics() -> None:
    """Each number has its series; what AWS does not know has none."""
    text = "".join(render_series(show(COMING)))
    assert f'ebs_agent_volume_impaired{{volume_id="{CHECKPOINTS}"}} 0\n' in text
    assert f'ebs_agent_volume_io_enabled{{volume_id="{CHECKPOINTS}"}} 1\n' in text
    assert f'ebs_agent_volume_initialization_ratio{{volume_id="{CHECKPOINTS}"}} 0.42\n' in text
    assert f'ebs_agent_volume_initialization_remaining_seconds{{volume_id="{CHECKPOINTS}"}} 600\n' in text
    text = "".join(render_series(show(AwsChecks("insufficient-data"))))
    assert not any(name in text for name in ("volume_impaired", "io_enabled", "initialization"))


def test_checks_are_in_status() -> None:
    """JSON has every member, and people read how far a volume is and how long that takes."""
    shown = show_status(show(COMING))
    assert shown["aws_checks"] == {
        "status": "ok",
        "io_enabled": True,
        "io_performance": "normal",
        "initialization": {"percent": 42, "left_s": 600, "kind": "provisioned-rate"},
        "events": [],
    }
    console = Console(width=200, record=True)
    console.print(show_volumes({"volumes": [shown]}), show_volume(shown))
    assert console.export_text().count("42 % of its content has come, about 10 min left") == 2
