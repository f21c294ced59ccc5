from __future__ import annotations

import pytest

from agent.core.errors import AgentError, ExitCode
from agent.core.model import Condition, Expected, Reason
from agent.report.board.readiness import assess_node, assess_volumes
from agent.report.board.volume_status import VolumeStatus
from tests.unit.report.samples import CHECKPOINTS, READY, REFUSED, make_board, make_status


@pytest.mark.parametrize("condition", list(Condition))
def test_required_volume_must_be_usable(condition: Condition) -> None:
    """A node is ready exactly when each required volume is Ready or Degraded."""
    board = make_board(make_status(condition=condition), REFUSED)
    assert assess_node(board).is_ready is (condition in {Condition.READY, Condition.DEGRADED})


def test_node_is_not_ready_before_it_was_looked_at() -> None:
    """Nothing is claimed before every volume was looked at once."""
    assert not assess_node(make_board(READY, is_looked_at=False)).is_ready


def test_absent_required_volume_is_waited_for() -> None:
    """A required volume that is not attached keeps the node from being ready, and is named."""
    board = make_board()
    board.expect([Expected("datasets", None, is_required=True)])
    assert [status.label for status in assess_node(board).waiting] == ["datasets"]


@pytest.mark.parametrize(
    "here",
    [
        make_status(name=None, is_required=False, condition=Condition.UNMANAGED, reason=Reason.NOT_IN_POLICY),
        make_status(REFUSED, name=None, volume_id=CHECKPOINTS, reason=Reason.PATH_IN_USE),
        make_status(name=CHECKPOINTS, is_required=False),
    ],
    ids=["more is asked of it", "refused", "kubelet has it"],
)
def test_required_volume_that_is_here_and_not_given_to_its_entry_is_waited_for(here: VolumeStatus) -> None:
    """That something is attached by the ID the entry names does not mean that the entry has it."""
    board = make_board(here)
    board.expect([Expected("checkpoints", CHECKPOINTS, is_required=True)])
    assert [status.label for status in assess_node(board).waiting] == ["checkpoints"]
    assert not assess_volumes(board, ["checkpoints"]).is_ready
    shown = {status.label: status for status in board.statuses()}
    assert shown["checkpoints"].volume_id is None, "the volume itself is told of once"
    assert CHECKPOINTS in shown["checkpoints"].message + str(shown["checkpoints"].hint)
    board.publish(READY)
    assert assess_node(board).is_ready
    assert [status.label for status in board.statuses()] == ["checkpoints"]


def test_renamed_entry_has_its_volume_meanwhile() -> None:
    """Until its volume is looked at under the new name it is told once, under the old one."""
    board = make_board(READY)
    board.expect([Expected("renamed", CHECKPOINTS, is_required=True)])
    assert assess_node(board).is_ready
    assert [status.label for status in board.statuses()] == ["checkpoints"]


def test_named_volumes_are_waited_for_though_not_required() -> None:
    """Asking for a volume by name waits for it, whether the policy requires it or not."""
    assert not assess_volumes(make_board(READY, REFUSED), ["datasets"]).is_ready
    assert assess_volumes(make_board(READY, REFUSED), [CHECKPOINTS]).is_ready


def test_unknown_name_is_wrong_usage_once_all_is_known() -> None:
    """A name nobody has is an error, but only when the first look is over."""
    assert not assess_volumes(make_board(is_looked_at=False), ["typo"]).is_ready
    with pytest.raises(AgentError) as caught:
        assess_volumes(make_board(READY), ["typo"])
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.hint == "Volumes known here: checkpoints."
    with pytest.raises(AgentError, match="No volume is called chekpoints") as caught:
        assess_volumes(make_board(READY), ["chekpoints"])
    assert caught.value.hint == "Did you mean checkpoints? Volumes known here: checkpoints."
