from __future__ import annotations

from structlog.testing import capture_logs

from agent.report.serving.flood_log import SAY_EVERY_S, Outcome, Tally


def test_many_of_a_kind_are_one_line_a_minute() -> None:
    """Each is counted; the log says the first, and after a minute how many there were since."""
    now = 0.0
    counted: list[tuple[str, str]] = []
    tally = Tally("http", lambda face, outcome: counted.append((face, outcome)), lambda: now)
    with capture_logs() as lines:
        for _ in range(1000):
            tally.note(Outcome.LATE)
        tally.note(Outcome.EVICTED)
        now = SAY_EVERY_S
        tally.note(Outcome.LATE)
    assert counted.count(("http", "late")) == 1001
    assert [(line["outcome"], line["count"]) for line in lines] == [
        ("late", 1),
        ("evicted", 1),
        ("late", 1000),
    ]


def test_what_is_usual_is_not_said() -> None:
    """A connection that is accepted is counted only."""
    with capture_logs() as lines:
        Tally("control").note(Outcome.ACCEPTED)
    assert lines == []


def test_mistakes_of_ours_are_told_with_where_they_were() -> None:
    """An answer that failed is an error of the agent's with its traceback, once a minute too."""
    error = KeyError("x")
    with capture_logs() as lines:
        tally = Tally("http")
        for _ in range(3):
            tally.note(Outcome.FAILED, error, what="GET /")
    (line,) = lines
    assert (line["event"], line["log_level"], line["exc_info"]) == ("face.failed", "error", error)
