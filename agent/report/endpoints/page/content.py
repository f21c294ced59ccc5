"""What the page shows, as JSON values: the answer of ``status.json``, from which the page is drawn too."""

from __future__ import annotations

from typing import Any

from agent.report import api
from agent.report.board.shown import ShownBoard

EVENTS_SHOWN = 30


def show_content(board: ShownBoard, trends: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows: the node, its volumes with their charts' points, the latest events.

    ``trends``: by volume ID, points as of ``list_points``.
    """
    node = api.show_node(board)
    for status, volume in zip(board.statuses(), node["volumes"], strict=True):
        volume["trend"] = trends.get(volume["volume_id"] or "", [])
        volume["past"] = [
            {"condition": one.condition.value, "since": api.to_iso(one.since)} for one in status.past
        ]
        given = None if status.volume_id is None else board.provisioned.get(status.volume_id)
        volume["provisioned"] = given and {
            "iops": given.iops,
            "throughput_mib_s": given.throughput_mib_s,
        }
    latest = reversed(board.history.latest(EVENTS_SHOWN))
    return {
        **node,
        "node": _show_place(board),
        "first_look_done": board.is_first_look_done,
        "next_calls": [api.show_next_call(call) for call in board.next_calls],
        "events": [api.show_event(event) for event in latest],
    }


def _show_place(board: ShownBoard) -> dict[str, Any]:
    place = board.place
    return {
        "name": place.facts.instance_name or place.host_name,
        "host_name": place.host_name,
        "cluster": place.facts.cluster_id,
        "group": place.facts.instance_group,
        "instance": place.facts.instance_id,
        "instance_type": board.attachments and board.attachments.instance_type,
        "zone": place.zone,
    }
