from __future__ import annotations

import json
from typing import Any

import pytest
from rich.console import Console

from agent.cli.fleet import rows
from agent.cli.fleet.look import Files, choose_source
from agent.cli.fleet.rows import Choice, RetainedFleet, Row, View, find_reason, make_view
from agent.cli.fleet.table import list_names, show_fleet
from agent.core.errors import InvalidValueError
from agent.report.api import show_status
from agent.report.board.volume_status import VolumeStatus
from tests.unit.report.samples import CHECKPOINTS, DATASETS, READY, REFUSED


def hear(fleet: RetainedFleet, node: str, *statuses: VolumeStatus, status: bytes = b"online") -> None:
    fleet.hear(f"ebs-agent/c/{node}/status", status)
    for one in statuses:
        payload = json.dumps(show_status(one), default=str).encode()
        fleet.hear(f"ebs-agent/c/{node}/volumes/{one.volume_id}", payload)


def view(fleet: RetainedFleet, **choice: Any) -> View:
    return make_view(fleet.list_rows(), Choice(**choice), fleet.left_out)


def draw(shown: View, width: int = 200) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(show_fleet(shown), crop=False)
    return captured.get()


def test_worst_come_first() -> None:
    """What is lost or failed, then nodes that are not heard, then the rest; with what agents say of them."""
    fleet = RetainedFleet("ebs-agent")
    hear(fleet, "n1", READY, REFUSED)
    hear(fleet, "n2", status=b"offline")
    shown = view(fleet)
    assert [(row.node, row.label, row.condition) for row in shown.rows] == [
        ("n2", "-", "Offline"),
        ("n1", "datasets", "Refused"),
        ("n1", "checkpoints", "Ready"),
    ]
    assert (shown.nodes, shown.offline) == (2, 1)
    assert shown.rows[1].reasons == ("NotBlank",)
    assert shown.rows[2].used == 0.5
    assert "2 nodes (1 not heard), 2 volumes: 1 Refused, 1 Ready." in draw(shown)
    assert list_names(shown) == ["n2/-", "n1/datasets", "n1/checkpoints"]


def test_choice_is_of_cluster_node_reason_and_number() -> None:
    """Each narrows it; what is not shown is said."""
    fleet = RetainedFleet("ebs-agent")
    hear(fleet, "n1", READY, REFUSED)
    hear(fleet, "n2", READY)
    assert [row.volume_id for row in view(fleet, reason="NotBlank").rows] == [DATASETS]
    assert [row.volume_id for row in view(fleet, reason="Refused").rows] == [DATASETS]
    assert [row.volume_id for row in view(fleet, node="n2").rows] == [CHECKPOINTS]
    assert view(fleet, cluster="other").rows == ()
    assert "… and 2 more" in draw(view(fleet, worst=1))
    assert (find_reason("stalled"), find_reason("degraded"), find_reason("nonsense")) == (
        "Stalled",
        "Degraded",
        None,
    )


def test_what_goes_is_gone() -> None:
    """An empty message takes away what the topic had; nothing is kept of a node without any."""
    fleet = RetainedFleet("ebs-agent")
    hear(fleet, "n1", READY)
    fleet.hear(f"ebs-agent/c/n1/volumes/{CHECKPOINTS}", b"")
    assert view(fleet).rows == ()
    fleet.hear("ebs-agent/c/n1/status", b"")
    assert (view(fleet).nodes, fleet._nodes, fleet._volumes) == (0, {}, 0)


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"[]",
        b'{"condition": 7}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"condition":"Ready","size_bytes":"x"}',
        b'{"condition":"Ready","size_bytes":-1}',
        b'{"condition":"Ready","size_bytes":1%s}' % (b"0" * 400),
        b'{"condition":"Ready","filesystem":{"size_bytes":1,"avail_bytes":1%s}}' % (b"0" * 400),
        b'{"condition":"Ready","filesystem":{"size_bytes":1,"avail_bytes":NaN}}',
    ],
)
def test_what_is_no_state_is_worst_and_not_hidden(payload: bytes) -> None:
    """Whatever is retained: the volume has a row, above all others."""
    fleet = RetainedFleet("ebs-agent")
    hear(fleet, "n1", READY)
    fleet.hear("ebs-agent/c/n1/volumes/vol-1", payload)
    assert [row.condition for row in view(fleet).rows] == ["Unreadable", "Ready"]


def test_strangers_cannot_steer_the_terminal() -> None:
    """Names, conditions and topics with escape sequences are shown without them, and cut."""
    fleet = RetainedFleet("ebs-agent")
    evil = "\x1b[2J\x1b]0;title\x07[bold]"
    state = {"condition": evil, "name": evil * 1000, "reason": evil, "message": evil}
    fleet.hear(f"ebs-agent/{evil}/{evil}/volumes/{evil}", json.dumps(state).encode())
    shown = view(fleet)
    assert len(shown.rows[0].name or "") == rows.MOST_TEXT
    for text in (draw(shown), *list_names(shown)):
        assert not {"\x1b", "\x07"} & set(text)
    assert "[bold]" in draw(shown)


def test_more_than_full_is_full() -> None:
    """What is no share of a filesystem puts no volume above those that are full."""
    fleet = RetainedFleet("ebs-agent")
    state = b'{"condition":"Ready","filesystem":{"size_bytes":1,"avail_bytes":9}}'
    fleet.hear("ebs-agent/c/n1/volumes/vol-1", state)
    assert view(fleet).rows[-1].used == 0.0


def test_topics_longer_than_names_are_left_out() -> None:
    """A topic may have 64 kB, and none of ours has."""
    fleet = RetainedFleet("ebs-agent")
    fleet.hear(f"ebs-agent/c/{'n' * 301}/volumes/v", b'{"condition":"Ready"}')
    assert (view(fleet).rows, view(fleet).left_out) == ((), 1)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the most that is kept it is counted, and said; what is known is still brought up to date."""
    monkeypatch.setattr(rows, "MOST_NODES", 2)
    monkeypatch.setattr(rows, "MOST_VOLUMES", 1)
    fleet = RetainedFleet("ebs-agent")
    for node in ("n1", "n2", "n3"):
        hear(fleet, node, READY)
    hear(fleet, "n1", REFUSED)
    shown = view(fleet)
    assert [row.node for row in shown.rows] == ["n1"]
    assert shown.left_out == 4
    assert "4 messages were left out" in draw(shown)


def test_other_topics_are_not_heard() -> None:
    """Events, and what is not below the topic."""
    fleet = RetainedFleet("ebs-agent")
    for topic in ("ebs-agent/c/n/events", "other/c/n/status", "ebs-agent/c/n/volumes/a/b", "ebs-agent"):
        fleet.hear(topic, b"online")
    assert view(fleet).nodes == 0


def test_columns_fit_the_terminal() -> None:
    """What is missed least is left out first, and nothing is broken."""
    row = Row("training", "compute-1", str(CHECKPOINTS), "Ready", "checkpoints", path="/data/checkpoints")
    shown = make_view([row], Choice())
    wide, narrow = draw(shown, 200), draw(shown, 60)
    assert "USED AT" in wide
    assert "USED AT" not in narrow
    assert "checkpoints" in narrow
    assert max(map(len, narrow.splitlines())) <= 60


@pytest.mark.parametrize(
    ("broker", "prometheus", "word"),
    [
        (None, None, "needed"),
        ("mqtts://b", "https://p", "needed"),
        ("https://b", None, "no address"),
        (None, "ftp://p", "no address"),
        ("mqtts://b:99999", None, "no address"),
        ("mqtts://b/#", None, "no address"),
        ("mqtts://user:pw@b", None, "password"),
    ],
)
def test_wrong_addresses(broker: str | None, prometheus: str | None, word: str) -> None:
    """Are refused with what to write, and a password in them for who could read it."""
    with pytest.raises(InvalidValueError, match=word):
        choose_source(broker, prometheus, Files())
