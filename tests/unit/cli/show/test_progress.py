"""How long work is told off a terminal, and how long the rest of it takes."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli.show.estimate import Estimate
from agent.cli.show.progress import follow_lines, telling
from agent.core.model import VolumeId

VOLUME = VolumeId("vol-0123456789abcdef0")


class Clock:
    """Time as the test has it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("noted", "later_s", "left_s"),
    [
        ((), 0.0, None),
        (((0.0, 40.0),), 10.0, None),
        (((0.0, 40.0), (60.0, 40.0)), 0.0, None),
        (((0.0, 0.0), (60.0, 25.0)), 0.0, 180.0),
        (((0.0, 50.0), (60.0, 75.0)), 0.0, 60.0),
        (((0.0, 0.0), (60.0, 25.0)), 30.0, 150.0),
        (((0.0, 0.0), (60.0, 25.0)), 180.0, None),
        (((0.0, 0.0), (10.0, 50.0), (90.0, 60.0)), 0.0, 60.0),
        (((0.0, 50.0), (60.0, 20.0)), 0.0, None),
    ],
    ids=["nothing", "one", "no further", "a quarter", "begun later", "counts", "overdue", "slower", "back"],
)
def test_the_rest_takes_as_long_as_the_rate_says(
    noted: tuple[tuple[float, float], ...], later_s: float, left_s: float | None
) -> None:
    """Nothing is said before there is a rate, nor once the end should have come."""
    clock = Clock()
    estimate, began_s = Estimate(clock), clock.now_s
    for at_s, percent in noted:
        clock.now_s = began_s + at_s
        estimate.note(percent)
    clock.now_s += later_s
    assert estimate.find_left_s() == (None if left_s is None else pytest.approx(left_s))


def test_lines_come_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """How far it is is told every ten per cent, or every minute; sentences always; all by the rate so far."""
    clock = Clock()
    with telling("snapshot", to_stderr=False, clock=clock) as progress:
        progress.tell("It has begun.")
        for percent in range(101):
            progress.tell(f"It is {percent} %.", percent)
            progress.tell(None, percent)
            clock.now_s += 3.0 if percent < 50 else 20.0
        progress.tell("It is done.")
    said = capsys.readouterr()
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[:3] == ["It has begun.", "It is 0 %.", "It is 10 %, about 4 min left."]
    assert [line.split()[2] for line in lines[1:7]] == ["0", "10", "20", "30", "40", "50"]
    assert [line.split()[2] for line in lines[7:9]] == ["53", "56"]
    assert lines[-2:] == ["It is 100 %.", "It is done."]


def test_an_order_is_followed_to_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is on standard error where the answer is JSON; a line without words is nobody's answer."""
    lines: list[dict[str, Any]] = [
        {"text": f"{VOLUME} is pending, 0 %.", "percent": 0},
        {"alive": True},
        {"alive": True, "percent": 50.0},
        {"done": True, "volume_id": VOLUME},
    ]
    assert follow_lines(lines, "snapshot", as_json=True) == lines[-1]
    assert capsys.readouterr() == ("", f"{VOLUME} is pending, 0 %.\n")
    assert follow_lines(lines[:3], "snapshot", as_json=False) is None
