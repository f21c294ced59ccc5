"""What keeps kubelet from having the driver is on the board until it has it."""

from __future__ import annotations

import pytest

from agent.core.errors import RefusedError
from agent.core.model import NodeReason
from agent.csi.service.registration import Registered, RegistrationRefused, find_remedy
from agent.csi.tell_registration import tell_obstacle, tell_registration
from agent.report.board.board import Board

DRIVER = "ebs.csi.aws.com"


def list_conditions(board: Board) -> list[tuple[NodeReason, str, str | None]]:
    """Return what is wrong with the node."""
    return [(one.reason, one.about, one.hint) for one in board.node_conditions]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (
            "Another driver with the same name is already registered with a higher supported version",
            "DaemonSet",
        ),
        (
            'detected topology value collision: driver reported "us-a" but existing label is "us-west-2b"',
            "agent.csi.zone",
        ),
        ("rpc error: code = Aborted desc = It is not known yet which instance this is.", "ebs-agent doctor"),
        ("something nobody has seen before", "journalctl"),
    ],
)
def test_refusal_is_shown_with_its_remedy_until_registered(error: str, word: str) -> None:
    """In kubelet's words; each driver by itself."""
    board = Board()
    tell_registration(board, RegistrationRefused(DRIVER, error, find_remedy(error)))
    [(reason, about, hint)] = list_conditions(board)
    assert (reason, about) == (NodeReason.REGISTRATION_REFUSED, DRIVER)
    assert hint is not None
    assert word in hint
    tell_registration(board, Registered("another.driver"))
    assert len(list_conditions(board)) == 1
    tell_registration(board, Registered(DRIVER))
    assert list_conditions(board) == []


def test_obstacle_is_shown_until_it_is_gone() -> None:
    """It is news once; and what kubelet said of sockets that are gone is not shown beside it."""
    board = Board()
    tell_registration(board, RegistrationRefused(DRIVER, "no", "yes"))
    error = RefusedError("Another plugin answers at /k/csi.sock already.", hint="Keep it off.")
    assert tell_obstacle(board, DRIVER, error)
    assert not tell_obstacle(board, DRIVER, error)
    assert list_conditions(board) == [(NodeReason.KUBELET_UNREACHABLE, DRIVER, "Keep it off.")]
    tell_obstacle(board, DRIVER, None)
    assert list_conditions(board) == []
