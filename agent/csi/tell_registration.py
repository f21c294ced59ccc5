"""What the board says of a driver that kubelet does not have: its words, or what is in the sockets' way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.errors import AgentError
from agent.core.model import NodeReason
from agent.report.board.board import Board
from agent.report.board.events import EventName

if TYPE_CHECKING:
    from agent.csi.service.registration import Registration

REFUSED, UNREACHABLE = NodeReason.REGISTRATION_REFUSED, NodeReason.KUBELET_UNREACHABLE


def tell_registration(board: Board, registration: Registration) -> None:
    """Have it shown, until kubelet takes the plugin, why it does not; the same as before is no event."""
    from agent.csi.service.registration import Registered  # noqa: PLC0415 -- where kubelet is served only

    driver = registration.driver
    recall_registration(board, driver, registration)
    if isinstance(registration, Registered):
        board.record(EventName.KUBELET_REGISTERED, driver=driver)
        return
    board.record(
        EventName.KUBELET_REFUSED,
        driver=driver,
        reason=REFUSED.value,
        error=registration.error,
        hint=registration.remedy,
    )


def recall_registration(board: Board, driver: str, registration: Registration | None) -> None:
    """Have it shown as ``tell_registration`` does, without an event; None: kubelet has said nothing yet."""
    from agent.csi.service.registration import RegistrationRefused  # noqa: PLC0415

    if not isinstance(registration, RegistrationRefused):
        board.node_conditions.end(REFUSED, driver)
        return
    message = f"kubelet does not take the agent for the plugin of {driver}: {registration.error.rstrip('.')}."
    board.node_conditions.show(REFUSED, driver, message, registration.remedy)


def tell_obstacle(board: Board, driver: str, error: AgentError | None) -> bool:
    """Have it shown what keeps kubelet from finding the plugin (None: nothing); tell whether that is news."""
    if error is None:
        board.node_conditions.end(UNREACHABLE, driver)
        return False
    # What kubelet said of sockets that are gone holds no longer.
    board.node_conditions.end(REFUSED, driver)
    return board.node_conditions.show(UNREACHABLE, driver, error.message, error.hint)
