"""``ebs-agent release --all``: everything is let go on this node, and detached where an API of AWS does that.

The node's part comes first and needs no AWS: one note on disk for all volumes before the first of them is let
go, then each by itself, all at once. One that somebody uses stays theirs, and the others are released.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import anyio
from msgspec import Struct

from agent.cloud.orders.context import NodeOrderContext, OrderContext
from agent.cloud.orders.release.one_volume import DETACH_YOURSELF, explain_attached
from agent.cloud.orders.volumes import VolumeOrders
from agent.cloud.plan.decisions import AttachApi
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.model import Reason, VolumeId
from agent.core.replace import replace
from agent.report import api

_HALF = 50.0
"""Per cent of the way: everything is let go, and then detached."""


class State(str, Enum):
    """What became of a volume."""

    DETACHED = "detached"
    RELEASED = "released"
    """Unmounted and flushed, and still attached: nothing that the agent may ask detaches it."""
    NOT_DETACHED = "not-detached"
    """Unmounted and flushed; AWS was asked to detach it, and that failed."""
    IN_USE = "in-use"
    NOT_OURS = "not-ours"
    """Never the agent's to let go: the system's, HyperPod's own, the CSI driver's."""
    FAILED = "failed"

    @property
    def is_released(self) -> bool:
        return self in {State.DETACHED, State.RELEASED, State.NOT_DETACHED}


class Outcome(Struct, frozen=True):
    """What became of one volume, in a word and a sentence."""

    volume_id: VolumeId
    name: str | None
    state: State
    message: str
    hint: str | None = None

    def show(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "volume_id": self.volume_id,
            "name": self.name,
            "state": self.state.value,
            "message": self.message,
            "hint": self.hint,
        }


async def release_all(context: NodeOrderContext) -> dict[str, Any]:
    """Release every volume here, and answer what became of each; with ``error`` where one is not."""
    here = await context.node.note_all_by_hand()
    outcomes: dict[VolumeId, Outcome] = {}

    async def release_one(volume_id: VolumeId) -> None:
        outcomes[volume_id] = await _release(context, volume_id)
        await context.report(None, _HALF * len(outcomes) / len(here))

    async with anyio.create_task_group() as tasks:
        for volume_id in here:
            tasks.start_soon(release_one, volume_id)
    if not await context.node.write_released():
        await context.report(
            "What is released could not be written down: an agent that is started anew uses it again."
            " `journalctl -u ebs-agent` says why."
        )
    free = [volume_id for volume_id in here if outcomes[volume_id].state.is_released]
    if free:
        await _detach_all(context, free, outcomes)
    return _answer([outcomes[volume_id] for volume_id in here])


async def _release(context: NodeOrderContext, volume_id: VolumeId) -> Outcome:
    """Unmount and flush one volume; its errors are its outcome."""
    status = context.board.get(volume_id)
    outcome = Outcome(
        volume_id,
        None if status is None else status.name,
        State.RELEASED,
        f"{volume_id} is unmounted and flushed, and stays so.",
    )
    try:
        await context.node.release(volume_id)
    except AgentError as error:
        state = State.FAILED
        if error.reason is Reason.DEVICE_BUSY:
            state = State.IN_USE
        elif isinstance(error, RefusedError):
            state = State.NOT_OURS
        outcome = replace(outcome, state=state, message=error.message, hint=error.hint)
    await context.report(outcome.message)
    return outcome


async def _detach_all(
    context: NodeOrderContext, free: list[VolumeId], outcomes: dict[VolumeId, Outcome]
) -> None:
    """Have AWS detach what was let go, each by itself, or say how it is done without the agent."""
    try:
        aws = await context.open_aws()
    except AgentError as error:  # the policy says to ask nothing of AWS
        await _tell_attached(context, free, outcomes, error.message)
        return
    if aws.view().api is AttachApi.NONE:
        await _tell_attached(context, free, outcomes, "no API attaches or detaches volumes here.")
        return

    done = 0

    async def detach(volume_id: VolumeId) -> None:
        nonlocal done
        outcomes[volume_id] = await _detach(context, aws, outcomes[volume_id])
        done += 1
        await context.report(None, _HALF + _HALF * done / len(free))

    async with anyio.create_task_group() as tasks:
        for volume_id in free:
            tasks.start_soon(detach, volume_id)


async def _tell_attached(
    context: NodeOrderContext, free: list[VolumeId], outcomes: dict[VolumeId, Outcome], why: str
) -> None:
    here = [volume_id for volume_id in free if volume_id in context.node.list_devices()]
    if not here:
        return
    await context.report(f"Still attached: {', '.join(here)}; {why} {DETACH_YOURSELF}")
    for volume_id in here:
        message = f"{volume_id} is unmounted and flushed, and stays so; it is still attached: {why}"
        outcomes[volume_id] = replace(outcomes[volume_id], message=message, hint=DETACH_YOURSELF)


async def _detach(context: NodeOrderContext, aws: OrderContext, outcome: Outcome) -> Outcome:
    """Have AWS detach one volume. Before the call the node sees once more that nobody uses it."""
    volume_id = outcome.volume_id
    # A follower of its own: what it told last is not to keep it from telling of another volume.
    orders = VolumeOrders(replace(aws.follower), aws.view)
    try:
        await orders.detach(volume_id)
    except AgentError as error:
        if error.reason is Reason.DEVICE_BUSY:  # by somebody who has begun to use it since
            return replace(outcome, state=State.IN_USE, message=error.message, hint=error.hint)
        explained = explain_attached(volume_id, error)
        await context.report(explained.message)
        return replace(outcome, state=State.NOT_DETACHED, message=explained.message, hint=explained.hint)
    return replace(outcome, state=State.DETACHED, message=f"{volume_id} is detached.")


def _answer(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the answer; with the error that the command ends with, where a volume was not released."""
    answer: dict[str, Any] = {"volumes": [outcome.show() for outcome in outcomes]}
    states = {outcome.state for outcome in outcomes}
    left = [one for one in outcomes if one.state in {State.IN_USE, State.FAILED, State.NOT_DETACHED}]
    if not left:
        return answer
    is_busy_only = states.isdisjoint({State.FAILED, State.NOT_DETACHED})
    hints = dict.fromkeys(one.hint for one in left if one.hint)
    if is_busy_only:
        hints = {
            "End them, and release again. The others stay released. `ebs-agent detach VOLUME --force` takes"
            " one away under its users: what they have not written is lost.": None
        }
    error = AgentError(
        f"{len(left)} of {len(outcomes)} volumes are not released: {' '.join(one.message for one in left)}",
        hint=" ".join(hints) or None,
        reason=Reason.DEVICE_BUSY if is_busy_only else None,
        exit_code=ExitCode.REFUSED if is_busy_only else ExitCode.FAILED,
    )
    return {**api.show_error(error), **answer}
