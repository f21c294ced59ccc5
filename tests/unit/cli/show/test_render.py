from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from agent.cli.show import render
from agent.cli.show.volume_table import show_volumes
from agent.cloud.aws.models import CloudSnapshot
from agent.cloud.orders.snapshots import show_snapshot
from agent.core.model import EndCause, Ending, NextCall, NodeReason
from agent.report import api
from tests.unit.cli.test_orphans import ORPHAN
from tests.unit.report.samples import DATASETS, NOON, READY, REFUSED, make_board, make_places, make_status


def draw(view: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=160, highlight=False).print(view)
    return out.getvalue()


def test_status_shows_each_volume_and_explains_what_is_wrong() -> None:
    """The table has every volume; below it each one that is not ready says why and what to do."""
    text = draw(show_volumes(api.show_node(make_board(READY, REFUSED))))
    for word in ("checkpoints", "✓ Ready", "/data/ckpt", "500 GiB", "50 %", "⊘ Refused NotBlank"):
        assert word in text
    assert text.rstrip().endswith("⊘ Volume datasets holds data. Mount it with format: never.")


def test_places_of_the_instance_are_shown() -> None:
    """Status, plan and explain tell how many of the instance's places are taken, where that is known."""
    board = make_board(READY)
    assert api.show_node(board)["attachments"] is None
    board.places = make_places("m5.xlarge", DATASETS)
    shown = api.show_attachments(board.attachments)
    views = (
        show_volumes(api.show_node(board)),
        render.show_plan({"volumes": [api.show_status(READY)], "attachments": shown}),
        render.show_explanation({**api.show_explanation(READY), "attachments": shown}),
    )
    assert all("m5.xlarge: 3 of 27 attachments, a limit that" in draw(view) for view in views)


def test_remarks_about_the_instance_are_shown() -> None:
    """Below the table and below the plan, as the cloud half says them."""
    board = make_board(READY)
    board.remarks = ("one: The volume is given 16000 IOPS.",)
    node = api.show_node(board)
    plan = {"volumes": [api.show_status(READY)], "remarks": node["remarks"]}
    for view in (show_volumes(node), render.show_plan(plan)):
        assert draw(view).rstrip().endswith("one: The volume is given 16000 IOPS.")


def test_end_of_the_instance_is_said_first() -> None:
    """Whoever asks for the status of a node that ends learns why its volumes are gone."""
    for board in (make_board(READY), make_board()):
        assert api.show_node(board)["ending"] is None
        board.ending = Ending(EndCause.POWER_OFF, "This machine is being powered off.")
        node = api.show_node(board)
        assert node["ending"] == {"cause": "power-off", "text": "This machine is being powered off."}
        assert draw(show_volumes(node)).startswith("This machine is being powered off.\n")


def test_what_is_wrong_with_the_node_is_shown_until_it_is_over() -> None:
    """With its reason, what it is about and the way out, on a node without volumes too."""
    for board in (make_board(READY), make_board()):
        assert api.show_node(board)["node_conditions"] == []
        board.node_conditions.show(NodeReason.REGISTRATION_REFUSED, "a.driver", "kubelet says no.", "Go.")
        told = api.show_node(board)["node_conditions"][0]
        assert (told["reason"], told["about"], told["hint"]) == (
            "RegistrationRefused",
            "a.driver",
            "Go.",
        )
        text = draw(show_volumes(api.show_node(board)))
        assert "RegistrationRefused a.driver: kubelet says no. Go." in " ".join(text.split())
        board.node_conditions.end(NodeReason.REGISTRATION_REFUSED, "a.driver")
        assert api.show_node(board)["node_conditions"] == []


def test_empty_node_is_said_in_words() -> None:
    """No volumes is a sentence, not an empty table."""
    assert "No EBS volume" in draw(show_volumes(api.show_node(make_board())))


def test_plan_shows_the_steps_in_order() -> None:
    """Each volume's plan is numbered, with hints; nothing to do is said."""
    answer = {"volumes": [api.show_status(READY), api.show_status(REFUSED)]}
    text = draw(render.show_plan(answer))
    assert "nothing to do" in text
    assert "1. refuse: Volume datasets holds data." in text


def test_plan_shows_the_calls_to_come() -> None:
    """What is to be asked of AWS stands below its volume's steps, or under its name where none is here."""
    later = NextCall("checkpoints", READY.volume_id, "CreateSnapshot", "snapshot it", at=NOON)
    denied = NextCall("scratch", None, "CreateVolume", "make a gp3 volume", why="ec2:CreateVolume is missing")
    answer = {
        "volumes": [api.show_status(READY), api.show_status(REFUSED)],
        "cloud": [api.show_next_call(later), api.show_next_call(denied)],
    }
    lines = [line.strip() for line in draw(render.show_plan(answer)).splitlines()]
    assert lines[1] == "at AWS: snapshot it, not before 2026-01-02 12:00 UTC"
    assert lines[-3:] == ["scratch", "at AWS: make a gp3 volume", "ec2:CreateVolume is missing"]


def test_explanation_has_every_fact() -> None:
    """``explain`` shows each fact that was observed."""
    text = draw(render.show_explanation(api.show_explanation(READY)))
    assert all(value in text for fact in READY.facts for value in fact)


def make_snapshot(**changes: Any) -> dict[str, Any]:
    """Return a snapshot as the agent answers it, with these changes."""
    snapshot = CloudSnapshot(
        "snap-0123456789abcdef0", "vol-0123456789abcdef0", "completed", "2026-01-02T12:00"
    )
    return {**show_snapshot(snapshot), **changes}


def test_snapshots_show_how_far_they_are_and_who_made_them() -> None:
    """Each is a row; one being written has its progress, one of the agent's the schedule it is of."""
    text = draw(
        render.show_snapshots(
            {
                "snapshots": [
                    make_snapshot(state="pending", progress_percent=40, frozen="yes"),
                    make_snapshot(made_by_agent=True, schedule="checkpoints"),
                ]
            }
        )
    )
    assert "pending 40 %" in text
    assert "someone else" in text
    assert "the agent, on the schedule of checkpoints" in text
    assert draw(render.show_snapshots({"snapshots": []})) == "There is no snapshot.\n"


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[link=file:///etc/shadow]x[/link]", "[/]"])
def test_names_are_not_markup(name: str) -> None:
    """What a volume is called is shown as it is, whatever brackets it has."""
    answer = api.show_node(make_board(make_status(name=name, message=name)))
    assert name in draw(show_volumes(answer))
    assert name in draw(render.show_volume(answer["volumes"][0]))


def test_devices_cannot_steer_the_terminal() -> None:
    """Escape sequences in what a device says of itself arrive as marks, not as colours or cursor moves."""
    hostile = make_status(message="label \x1b[2Jx\x07\u202e", facts=(("serial", "a\x1b]0;b\x07"),))
    text = draw(render.show_explanation(api.show_explanation(hostile)))
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_times_are_utc_in_json() -> None:
    """JSON carries times that need no time zone to be read."""
    assert api.to_iso(NOON) == "2026-01-02T12:00:00.000Z"


def test_orphans_are_summed_up() -> None:
    """Volumes nobody holds show who had them and why one may not be deleted, and what they come to."""
    orphan = {**ORPHAN, "size_bytes": 500 << 30}
    kept = {**orphan, "may_be_deleted": False, "obstacle": "an entry of the policy is for it"}
    drawn = draw(render.show_orphans({"orphans": [orphan, kept]}))
    assert "2 volumes, 1000" in drawn
    assert "1 may be deleted" in drawn
    assert "2026-11-02T12:00:00" in drawn
    assert "held" in draw(render.show_orphans({"orphans": []}))
