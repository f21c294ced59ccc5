"""What a volume that a person took away is shown as, and that nothing is done with it."""

from __future__ import annotations

import pytest

from agent.core.errors import AgentError
from agent.core.model import Condition, DeviceNumber, Expected, Mount, Observed, Reason, Released, Wanted
from agent.core.replace import replace
from agent.core.steps import Link, Plan, Unlink, Unmount
from agent.loop.goals import choose_goal, find_meant, plan_for
from agent.report.board.board import Board
from agent.report.board.readiness import assess_node, assess_volumes
from agent.report.board.status import describe_status
from tests.unit.core.test_plan import BLANK, EXT4, LINKS, RAW, VOLUME, WANTED, look, mount_of

STALE = Mount(
    60, 20, DeviceNumber(259, 9), "/", "/data/ckpt", frozenset({"rw"}), "ext4", "/dev/nvme9n1", frozenset()
)


@pytest.mark.parametrize("wanted", [WANTED, RAW, replace(WANTED, grow=True, required=True)])
@pytest.mark.parametrize("content", [None, BLANK, EXT4])
def test_nothing_is_done_with_a_released_volume(wanted: Wanted, content: object) -> None:
    """Whatever is on it, whoever wants it: neither formatted, mounted nor exposed, and told as released."""
    plan = plan_for(look(content), Released(wanted))  # type: ignore[arg-type]  # as parametrised above
    assert plan.actions == ()
    assert plan.condition is Condition.PENDING
    assert plan.standing is not None
    assert plan.standing.reason is Reason.RELEASED
    assert f"ebs-agent attach {VOLUME}" in str(plan.standing.hint)


def test_released_volume_that_is_mounted_still_is_told_as_that() -> None:
    """A release that was cut off leaves a mount: it is neither undone nor completed by itself, but told."""
    plan = plan_for(look(EXT4, mounts=(mount_of(),)), Released(WANTED))
    assert plan.actions == ()
    assert plan.standing is not None
    assert "still mounted at /data/ckpt" in plan.standing.message
    assert f"ebs-agent detach {VOLUME}" in str(plan.standing.hint)


def test_what_the_agent_left_of_it_goes() -> None:
    """The link to a raw volume goes, so that nobody opens it by its name; so do mounts of a lost device."""
    linked = look(links=LINKS | {"rawdb"}, wrong_links=frozenset({"rawdb"}))
    assert plan_for(linked, Released(RAW)).actions == (Unlink("rawdb"),)
    assert plan_for(look(links=frozenset()), Released(RAW)).actions == (Link(f"by-id/{VOLUME}"),)
    lost = plan_for(Observed(VOLUME, stale_mounts=(STALE,)), Released(WANTED))
    assert lost.actions == (Unmount(STALE, is_stale=True),)
    assert lost.condition is Condition.LOST


def test_released_volume_that_is_gone() -> None:
    """Detached, it stays the entry's, and is not said to be missing for no reason."""
    plan = plan_for(Observed(VOLUME), Released(WANTED))
    assert (plan.actions, plan.condition) == ((), Condition.PENDING)
    assert plan.standing is not None
    assert (plan.standing.reason, "is not attached" in plan.standing.message) == (Reason.RELEASED, True)


def test_goal_and_name() -> None:
    """A look at a released volume goes by nothing that is wanted; what names it is shown."""
    error = AgentError("two entries match")
    assert choose_goal(Released(WANTED)) is None
    assert choose_goal(WANTED) is WANTED
    assert [find_meant(want) for want in (Released(WANTED), WANTED, None, error)] == [
        WANTED,
        WANTED,
        None,
        None,
    ]
    with pytest.raises(AgentError, match="two entries"):
        choose_goal(error)


@pytest.mark.parametrize("observed", [look(EXT4), Observed(VOLUME)])
def test_required_volume_that_is_released_keeps_the_node_from_being_ready(observed: Observed) -> None:
    """Attached or not, a required volume that a person took away is waited for, and why is told."""
    wanted = replace(WANTED, required=True)
    board = Board()
    board.expect([Expected(wanted.name, VOLUME, is_required=True)])
    plan: Plan = plan_for(observed, Released(wanted))
    board.publish(describe_status(observed, wanted, plan, "/dev/ebs"))
    board.finish_first_look()
    for readiness in (assess_node(board), assess_volumes(board, [wanted.name])):
        assert not readiness.is_ready
        assert [(one.name, one.reason) for one in readiness.waiting] == [(wanted.name, Reason.RELEASED)]
        assert "taken away by hand" in readiness.waiting[0].message
