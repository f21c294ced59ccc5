from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from agent.cli.client import Client
from agent.cli.show.events import print_events, read_moment, show_event
from agent.core.errors import InvalidValueError

NOW = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
CKPT, DATA = "vol-0123456789abcdef0", "vol-0123456789abcdef1"


def make_event(number: int, event: str, /, **fields: Any) -> dict[str, Any]:
    return {"number": number, "event": event, "at": f"2026-01-02T1{number}:00:00.000Z", **fields}


class ClientThatKnows(Client):
    """An agent with two volumes, to which four things have happened."""

    def __init__(self) -> None:
        super().__init__(Path("/none"))
        self.asked = 0

    @override
    def status(self) -> dict[str, Any]:
        self.asked += 1
        return {"volumes": [{"volume_id": CKPT, "name": "ckpt"}, {"volume_id": None, "name": "claimed"}]}

    @override
    def volume_status(self, volume: str) -> dict[str, Any]:
        found = {"ckpt": CKPT, "claimed": None}
        if volume not in found:
            raise InvalidValueError(
                f"No volume is called {volume}.", hint="Volumes known here: ckpt, claimed."
            )
        return {"volume_id": found[volume]}

    @override
    def events(self, *, follow: bool = False) -> Iterator[dict[str, Any]]:
        yield make_event(0, "agent.started", version="1")
        yield make_event(1, "volume.mounted", volume_id=CKPT, text="mount at /data/ckpt", duration_s=0.0123)
        yield make_event(2, "volume.attached", volume_id=DATA, device="/dev/nvme2n1")
        yield make_event(3, "snapshot.taken", volume_id=CKPT, snapshot_id="snap-1")
        if follow:
            yield make_event(4, "volume.ready", volume_id=CKPT, name="ckpt")


def run(
    capsys: pytest.CaptureFixture[str],
    volume: str | None = None,
    since: str | None = None,
    last: int | None = None,
    *,
    follows: bool = False,
) -> list[str]:
    print_events(ClientThatKnows(), volume, since, last, follows=follows, as_json=False)
    return capsys.readouterr().out.splitlines()


def list_names(lines: list[str]) -> list[str]:
    return [line.split()[2] for line in lines]


def test_events_have_names_and_what_the_agent_said(capsys: pytest.CaptureFixture[str]) -> None:
    """The policy's name in place of an ID where there is one; a sentence where there is one; fields else."""
    started, mounted, attached, taken = run(capsys)
    assert started.split() == ["2026-01-02", "10:00:00Z", "agent.started", "-", "version=1"]
    assert mounted.split(maxsplit=4)[2:] == ["volume.mounted", "ckpt", "mount at /data/ckpt (0.0123 s)"]
    assert attached.split()[3:] == [DATA, "device=/dev/nvme2n1"]
    assert taken.split()[3:] == ["ckpt", "snapshot_id=snap-1"]


@pytest.mark.parametrize(
    ("volume", "last", "names"),
    [
        (None, 1, ["snapshot.taken", "volume.ready"]),
        (None, 0, ["volume.ready"]),
        (DATA, 0, []),
        (DATA, 5, ["volume.attached"]),
    ],
)
def test_what_follows_is_what_happens_from_now_on(
    capsys: pytest.CaptureFixture[str], volume: str | None, last: int, names: list[str]
) -> None:
    """Also where nothing that has happened is kept: none of it comes again."""
    assert list_names(run(capsys, volume, last=last, follows=True)) == names


@pytest.mark.parametrize("volume", ["ckpt", CKPT], ids=["name", "ID"])
def test_events_of_one_volume(capsys: pytest.CaptureFixture[str], volume: str) -> None:
    """By name or ID, and cloud actions among them."""
    assert list_names(run(capsys, volume)) == ["volume.mounted", "snapshot.taken"]


def test_volume_that_has_gone_is_named_by_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    """What happened to it is still asked for; a wrong name is answered with those known."""
    assert list_names(run(capsys, DATA)) == ["volume.attached"]
    with pytest.raises(InvalidValueError, match="No volume is called nosuch"):
        run(capsys, "nosuch")
    with pytest.raises(InvalidValueError, match="has no volume yet"):
        run(capsys, "claimed")


def test_the_latest_and_those_since(capsys: pytest.CaptureFixture[str]) -> None:
    """``-n`` counts what is left of the other choices."""
    assert list_names(run(capsys, last=2)) == ["volume.attached", "snapshot.taken"]
    assert list_names(run(capsys, "ckpt", last=1)) == ["snapshot.taken"]
    assert list_names(run(capsys, since="2026-01-02T12:00")) == [
        "volume.attached",
        "snapshot.taken",
    ]
    assert run(capsys, since="2026-01-02T13:30Z") == []
    assert run(capsys, last=0) == []


def test_following_goes_on_after_the_latest(capsys: pytest.CaptureFixture[str]) -> None:
    """None is shown twice, and none is missed."""
    assert list_names(run(capsys, last=1, follows=True)) == [
        "snapshot.taken",
        "volume.ready",
    ]
    assert len(run(capsys, follows=True)) == 5


def test_agent_is_asked_for_names_once_for_each_unknown_volume() -> None:
    """Not at every event of a volume that the policy does not name."""
    client = ClientThatKnows()
    print_events(client, None, None, None, follows=True, as_json=False)
    assert client.asked == 2


def test_moments() -> None:
    """How long ago, or when: with a zone, or in UTC."""
    assert read_moment("90m", NOW) == datetime(2026, 1, 2, 10, 30, tzinfo=timezone.utc)
    assert read_moment("2026-01-01", NOW) == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert read_moment("2026-01-02T12:00+02:00", NOW) == datetime(2026, 1, 2, 10, tzinfo=timezone.utc)
    for wrong in ("yesterday", "", "-1h", "99999999999999999d"):
        with pytest.raises(InvalidValueError, match="no time"):
            read_moment(wrong, NOW)


def test_text_cannot_steer_a_terminal() -> None:
    """A label comes from a device."""
    line = show_event(make_event(1, "volume.attached", label="\x1b[2Jx"), None)
    assert "\x1b" not in line
