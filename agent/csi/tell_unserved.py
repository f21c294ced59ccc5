"""What the board says of volumes that kubelet has of the agent, where this one is to serve it no more."""

from __future__ import annotations

from pathlib import Path

from agent.base.off_loop import Aside
from agent.core.model import NodeReason
from agent.csi.noted_claims import list_all_claims
from agent.report.board.board import Board

MOST_NAMED = 3


async def tell_unserved(board: Board, state: Path, driver: str, aside: Aside) -> None:
    """Have it shown, as long as this agent runs, that pods have volumes nobody can take back or grow.

    Raises AgentError where that cannot be told.
    """
    claims = await aside(list_all_claims, str(state), subject=str(state))
    if not claims:
        return
    named = ", ".join([*claims[:MOST_NAMED], *(["…"] if claims[MOST_NAMED:] else [])])
    volumes = "1 volume" if len(claims) == 1 else f"{len(claims)} volumes"
    board.node_conditions.show(
        NodeReason.KUBELET_UNSERVED,
        driver,
        f"kubelet has {volumes} of the agent, which serves it no more since the policy turned agent.csi off:"
        f" {named}. Pods go on with them, and cannot end or be moved.",
        "Turn it on again (agent.csi: {enabled: auto}) and run: systemctl restart ebs-agent."
        " Drain the node before it is turned off.",
    )
