"""What ``ebs-agent csi migrate`` says, as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent.controller.migration.describe import Plan
from agent.controller.migration.seen import Aim, Subject
from agent.core.errors import AgentError
from agent.core.quoting import make_printable


def show_needs(
    rights: Iterable[tuple[str, str, list[str]]], manifest: str, aws_actions: Sequence[str]
) -> Iterator[str]:
    """Say which credentials it takes."""
    yield f"Needs in Kubernetes ({manifest}):"
    for group, resource, verbs in rights:
        yield f"  {resource}{'.' if group else ''}{group}: {', '.join(verbs)}"
    yield "Needs in AWS, where the cluster has no VolumeSnapshots, or with --ec2-snapshot; else nothing:"
    yield f"  {', '.join(aws_actions)}"
    yield ""


def show_plan(plan: Plan, aim: Aim) -> Iterator[str]:
    """Say what would be done for a claim."""
    told = f" ({plan.volume_id}, {plan.size})" if plan.volume_id else ""
    yield f"{plan.subject.name}{told}: {aim.origin} -> {aim.target}"
    if plan.refusal is not None:
        yield from (f"  {line}" for line in show_failure(plan.refusal))
    elif not plan.steps:
        yield f"  It is {aim.target}'s."
    yield from (f"  {number}. {step}" for number, step in enumerate(plan.steps, 1))
    yield from (f"  {loss}" for loss in plan.losses)
    yield ""


def show_failure(error: AgentError) -> Iterator[str]:
    """Say what went wrong, and the way out."""
    yield make_printable(error.message)
    if error.hint:
        yield make_printable(error.hint)


def show_left(plans: Sequence[Plan], moved: Sequence[Subject], *, is_meant: bool) -> Iterator[str]:
    """Say what came of it."""
    possible = sum(bool(one.steps) for one in plans)
    refused = sum(one.refusal is not None for one in plans)
    if not plans:
        yield "There are no such claims."
    elif is_meant:
        yield f"Moved: {len(moved)} of {possible}; refused: {refused}."
    else:
        yield f"Nothing was changed. With --yes {possible} of {len(plans)} are moved; refused: {refused}."
