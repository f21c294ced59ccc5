"""The JSON shapes of statuses, plans and events: one for the socket, ``--json``, MQTT and the page.

Keys are only ever added. Sizes are bytes, times are UTC in ISO 8601.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import agent
from agent.core.errors import AgentError
from agent.core.model import Attachments, AwsChecks, Difference, Ending, NextCall, SnapshotFacts
from agent.report.board.events import Event
from agent.report.board.node_conditions import NodeCondition
from agent.report.board.readiness import Readiness, assess_node
from agent.report.board.readings import Health
from agent.report.board.shown import ShownBoard
from agent.report.board.volume_status import VolumeStatus


def to_iso(at: datetime) -> str:
    """Return a UTC time as ISO 8601 with milliseconds and ``Z``."""
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def show_status(status: VolumeStatus) -> dict[str, Any]:
    """Return a volume's status as JSON values."""
    usage, step = status.usage, status.last_step
    return {
        "volume_id": status.volume_id,
        "name": status.name,
        "condition": status.condition.value,
        "reason": status.reason and status.reason.value,
        "message": status.message,
        "hint": status.hint,
        "device": status.device,
        "path": status.path,
        "fstype": status.fstype,
        "size_bytes": status.size_bytes,
        "filesystem": usage
        and {
            "size_bytes": usage.size_bytes,
            "avail_bytes": usage.avail_bytes,
            "files": usage.files,
            "files_free": usage.files_free,
            "is_read_only": usage.is_read_only,
        },
        "health": status.health and show_health(status.health),
        "verdicts": show_verdicts(status.health),
        "snapshots": status.snapshots and show_snapshot_facts(status.snapshots),
        "drift": [show_difference(one) for one in status.drift],
        "aws_checks": status.checks and show_checks(status.checks),
        "persistent_volume": status.persistent_volume,
        "persistent_volume_claim": status.persistent_volume_claim,
        "required": status.is_required,
        "since": status.since and to_iso(status.since),
        "last_step": step
        and {"step": step.step, "text": step.text, "outcome": step.outcome, "at": to_iso(step.at)},
        "plan": [
            {"step": planned.step, "text": planned.text, "hint": planned.hint} for planned in status.plan
        ],
    }


def show_difference(one: Difference) -> dict[str, Any]:
    """Return one thing that a volume is not as its claim says."""
    what = f"{one.what}.{one.part}" if one.part else one.what
    return {
        "what": what,
        "is": one.found,
        "should_be": one.wanted,
        "remedy": one.remedy.value,
        "text": one.describe(),
    }


def show_health(health: Health) -> dict[str, Any]:
    """Return what sampling found, as JSON values; what is not known is null."""
    sample, statistics = health.sample, health.statistics
    mount = None if sample is None else sample.mount
    return {
        "stalled": health.is_stalled,
        "probe_s": health.probe_s,
        "filesystem_errors": None if mount is None else mount.errors,
        "io_timeout_s": None if sample is None else sample.io_timeout_s,
        "queue_length": None if statistics is None else statistics.queue_length,
    }


def show_snapshot_facts(facts: SnapshotFacts) -> dict[str, Any]:
    """Return how the scheduled snapshots of a volume are, as JSON values."""
    return {
        "last_completed_at": facts.last_completed_at and to_iso(facts.last_completed_at),
        "due_at": facts.due_at and to_iso(facts.due_at),
        "completed": facts.completed,
        "failed": list(facts.failed),
    }


def show_checks(checks: AwsChecks) -> dict[str, Any]:
    """Return what AWS's own status checks found, as JSON values; what AWS does not say is null."""
    coming = checks.initialization
    return {
        "status": checks.status,
        "io_enabled": checks.is_io_enabled,
        "io_performance": checks.io_performance,
        "initialization": coming
        and {"percent": coming.percent, "left_s": coming.left_s, "kind": coming.kind},
        "events": list(checks.events),
    }


def show_next_call(call: NextCall) -> dict[str, Any]:
    """Return what is going to be asked of AWS, as JSON values."""
    return {
        "name": call.entry,
        "volume_id": call.volume_id,
        "operation": call.operation,
        "text": call.text,
        "at": call.at and to_iso(call.at),
        "why": call.why,
    }


def show_attachments(attachments: Attachments | None) -> dict[str, Any] | None:
    """Return how many of the instance's places are taken, as JSON values; null where it is not known."""
    if attachments is None:
        return None
    return {
        "instance_type": attachments.instance_type,
        "used": attachments.used,
        "most": attachments.most,
        "shared": attachments.is_shared,
        "text": attachments.describe(),
    }


def show_ending(ending: Ending | None) -> dict[str, Any] | None:
    """Return that this instance ends, as JSON values; null while nothing is heard of that."""
    return None if ending is None else {"cause": ending.cause.value, "text": ending.text}


def show_node_condition(one: NodeCondition) -> dict[str, Any]:
    """Return what is wrong with the node as a whole, as JSON values."""
    return {
        "reason": one.reason.value,
        "about": one.about,
        "message": one.message,
        "hint": one.hint,
        "since": to_iso(one.since),
    }


def show_verdicts(health: Health | None) -> list[dict[str, Any]]:
    """Return everything that is wrong, worst first; the first may be the volume's condition."""
    return [
        {
            "condition": verdict.condition.value,
            "reason": verdict.reason.value,
            "message": verdict.message,
            "hint": verdict.hint,
        }
        for verdict in (() if health is None else health.verdicts)
    ]


def show_explanation(status: VolumeStatus) -> dict[str, Any]:
    """Return a status together with every fact observed, in reading order."""
    return {**show_status(status), "facts": [{"name": name, "value": value} for name, value in status.facts]}


def show_node(board: ShownBoard) -> dict[str, Any]:
    """Return the whole board: the agent, whether the node is ready, and every volume."""
    return {
        "version": agent.__version__,
        "ready": assess_node(board).is_ready,
        "attachments": show_attachments(board.attachments),
        "ending": show_ending(board.ending),
        "remarks": list(board.remarks),
        "node_conditions": [show_node_condition(one) for one in board.node_conditions],
        "volumes": show_statuses(board.statuses()),
    }


def show_statuses(statuses: Iterable[VolumeStatus]) -> list[dict[str, Any]]:
    """Return the status of each volume, in the order given."""
    return [show_status(status) for status in statuses]


def show_readiness(readiness: Readiness) -> dict[str, Any]:
    """Return the answer of ``/healthz`` and of one line of ``wait``."""
    return {
        "ready": readiness.is_ready,
        "first_look_done": readiness.is_first_look_done,
        "volumes": readiness.counted,
        "waiting": [
            {
                "volume_id": status.volume_id,
                "name": status.name,
                "condition": status.condition.value,
                "reason": status.reason and status.reason.value,
                "message": status.message,
                "hint": status.hint,
            }
            for status in readiness.waiting
        ],
    }


def show_event(event: Event) -> dict[str, Any]:
    """Return an event with its fields beside its name, as in the log."""
    about = {} if event.volume_id is None else {"volume_id": event.volume_id}
    return {
        **event.fields,
        "event": event.name.value,
        "at": to_iso(event.at),
        "number": event.number,
        **about,
    }


def show_error(error: AgentError) -> dict[str, Any]:
    """Return what the other end needs to raise the same error again."""
    return {
        "error": error.message,
        "hint": error.hint,
        "reason": error.reason and error.reason.value,
        "exit_code": int(error.exit_code),
    }
