"""From one look at a volume to what is shown of it. Pure: the same look always reads the same."""

from __future__ import annotations

from agent.core.errors import (
    AgentError,
    BugError,
    CoveredError,
    InconclusiveError,
    NotAnsweringError,
    RefusedError,
)
from agent.core.model import (
    Blank,
    Condition,
    Content,
    Filesystem,
    Foreign,
    Observed,
    Reason,
    Unknown,
    Unproven,
    VolumeId,
    Wanted,
)
from agent.core.replace import replace
from agent.core.steps import Action, Plan, Step
from agent.core.units import show_size
from agent.report.board.volume_status import PlannedStep, VolumeStatus


def describe_status(observed: Observed, wanted: Wanted | None, plan: Plan, dev_ebs: str) -> VolumeStatus:
    """Return the status after a look and the plan made from it; links to volumes lie below ``dev_ebs``."""
    ending = plan.standing
    if ending is not None:
        reason, message, hint = ending.reason, ending.message, ending.hint
    elif wanted is None:
        reason, hint = Reason.NOT_IN_POLICY, None
        message = f"No entry of the policy matches {observed.volume_id}."
        if observed.exclusion is not None:
            reason, message = observed.exclusion.reason, observed.exclusion.message
    else:
        reason, message, hint = None, _say_progress(plan.actions[0]) if plan.actions else "", None
    return replace(
        _describe_facts(observed.volume_id, observed, wanted),
        path=_choose_path(observed, wanted, dev_ebs),
        condition=plan.condition,
        reason=reason,
        message=message,
        hint=hint,
        plan=describe_plan(plan),
    )


def describe_failure(
    volume: VolumeId,
    observed: Observed | None,
    wanted: Wanted | None,
    error: AgentError,
    dev_ebs: str,
    *,
    is_of_step: bool = False,
) -> VolumeStatus:
    """Return the status of a volume, last ``observed`` so, whose look or step raised ``error``.

    A volume that is mounted stays usable, so it is Degraded; one that does not answer is Failed, since
    nobody can use it, and so is one that the agent itself is at fault with; a refusal is Refused, unless it
    ``is_of_step`` on a volume that was seen at its path and is used there on. One of which nothing can be
    found out now stays usable if it was, as Degraded.
    """
    path = None if observed is None else _choose_path(observed, wanted, dev_ebs)
    is_mounted = observed is not None and bool(observed.mounts) and path is not None
    condition = Condition.DEGRADED if is_mounted else Condition.FAILED
    if isinstance(error, (NotAnsweringError, BugError)):
        condition = Condition.FAILED
    elif isinstance(error, RefusedError):
        is_used_on = is_of_step and not isinstance(error, CoveredError) and _is_at_path(path, wanted)
        condition = Condition.DEGRADED if is_used_on else Condition.REFUSED
    elif isinstance(error, InconclusiveError):
        condition = Condition.PENDING if path is None else Condition.DEGRADED
        if wanted is None:
            condition = Condition.UNMANAGED
    return replace(
        _describe_facts(volume, observed, wanted),
        path=path,
        condition=condition,
        reason=error.reason or Reason.STEP_FAILED,
        message=error.message,
        hint=error.hint,
    )


def _is_at_path(path: str | None, wanted: Wanted | None) -> bool:
    """Whether a volume that can be used at ``path`` is mounted, and where it is wanted."""
    return wanted is not None and wanted.mount is not None and path == wanted.mount.path


def describe_plan(plan: Plan) -> tuple[PlannedStep, ...]:
    """Return a plan for showing, step for step the objects that are executed."""
    return tuple(describe_step(step) for step in plan.steps)


def describe_step(step: Step) -> PlannedStep:
    """Return one step for showing."""
    return PlannedStep(step.kind, step.describe(), getattr(step, "hint", None))


def show_progress(status: VolumeStatus, action: Action) -> VolumeStatus:
    """Return the status after a look as it is while ``action`` is under way, where no ending holds."""
    return status if status.reason is not None else replace(status, message=_say_progress(action))


def _say_progress(action: Action) -> str:
    return f"Now: {action.describe()}."


def _describe_facts(volume: VolumeId, observed: Observed | None, wanted: Wanted | None) -> VolumeStatus:
    device = None if observed is None else observed.device
    content = None if observed is None else observed.content
    return VolumeStatus(
        volume_id=volume,
        name=None if wanted is None else wanted.name,
        condition=Condition.PENDING,
        device=None if device is None else device.path,
        fstype=content.type.value if isinstance(content, Filesystem) else None,
        size_bytes=None if device is None else device.size_bytes,
        is_required=wanted is not None and wanted.required,
        wants_read_only=wanted is not None and wanted.mount is not None and wanted.mount.is_read_only,
        wants_growth=wanted is not None and wanted.grow,
        facts=() if observed is None else list_facts(observed),
    )


def _choose_path(observed: Observed, wanted: Wanted | None, dev_ebs: str) -> str | None:
    """Return where the volume can be used: its mount, unless that is hidden, or the link to a raw one."""
    if observed.mounts and (wanted is None or wanted.block is None):
        return None if observed.is_hidden else observed.mounts[0].path
    if wanted is not None and wanted.block is None:
        return None
    link = f"by-id/{observed.volume_id}" if wanted is None else wanted.name
    return f"{dev_ebs}/{link}" if link in observed.links else None


def list_facts(observed: Observed) -> tuple[tuple[str, str], ...]:
    """Return what was observed as (name, value) pairs in reading order, for ``explain``."""
    facts: list[tuple[str, str]] = []
    device = observed.device
    if device is None:
        facts.append(("device", "not attached"))
    else:
        identity = device.identity
        facts += [
            ("device", f"{device.path} ({device.device_number})"),
            ("model", identity.model),
            ("serial", identity.serial),
            ("attached as", identity.attach_name or "not said by the device"),
            ("size", f"{show_size(device.size_bytes)} ({device.size_bytes} bytes)"),
            ("appearance", "unknown" if device.diskseq is None else f"disk sequence number {device.diskseq}"),
            ("writable", "no" if device.is_read_only else "yes"),
            ("partitions", ", ".join(p.path for p in device.partitions) or "none"),
            ("built on it", ", ".join(device.holders) or "nothing"),
        ]
        if identity.is_shared:
            facts.append(("multi-attach", "yes: the namespace may be attached to several instances"))
    if observed.exclusion is not None:
        facts.append(("hands off", observed.exclusion.message))
    facts.append(("content", describe_content(observed.content)))
    facts += [("mounted", f"{m.path} ({','.join(sorted(m.options))})") for m in observed.mounts]
    facts += [("stale mount", mount.path) for mount in observed.stale_mounts]
    if observed.obstacle is not None:
        facts.append(("in the way", observed.obstacle))
    if observed.checked is not None:
        state = "clean" if observed.checked.is_clean else f"not clean: {observed.checked.detail}"
        facts.append(("filesystem check", state))
    if observed.format_record is not None:
        record = observed.format_record
        facts.append(
            ("format record", f"{record.stage.value} {record.type} {record.uuid} at {record.recorded_at}")
        )
    if observed.origin is not None and observed.origin.snapshot_id is not None:
        facts.append(("made from", observed.origin.snapshot_id))
    return tuple(facts)


def describe_content(content: Content | None) -> str:
    """Return what is on a device as a clause."""
    if content is None:
        return "not looked at"
    if isinstance(content, Filesystem):
        where = "" if content.partition is None else f" on partition {content.partition}"
        size = "" if content.size_bytes is None else f", {show_size(content.size_bytes)}"
        return f"{content.type} {content.uuid}{where}{size}"
    if isinstance(content, Foreign):
        return content.what
    if isinstance(content, Unknown):
        return f"unknown: {content.why}"
    if isinstance(content, Unproven):
        return "nothing that is recognised; not read further, since it would not be formatted"
    return _describe_blank(content)


def _describe_blank(content: Blank) -> str:
    how = "every byte was read" if content.is_whole else f"{show_size(content.sampled_bytes)} were read"
    return f"blank: {how}, and no signature found"
