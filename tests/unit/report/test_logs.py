from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import structlog

from agent.report.logs import configure_logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_every_line_is_one_json_object() -> None:
    """Off a terminal, our own lines and those of libraries come out as JSON with level and UTC time."""
    stream = io.StringIO()
    configure_logs(stream=stream, environ={})
    structlog.get_logger("agent").warning("volume.refused", volume_id="vol-1", why="a\nb")
    logging.getLogger("another.library").error("went %s", "wrong")
    ours, theirs = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (ours["event"], ours["level"], ours["why"]) == ("volume.refused", "warning", "a\nb")
    assert ours["timestamp"].endswith("Z")
    assert (theirs["event"], theirs["logger"]) == ("went wrong", "another.library")


def test_exception_is_part_of_its_line() -> None:
    """A traceback does not break a line in two."""
    stream = io.StringIO()
    configure_logs(stream=stream, environ={})
    try:
        int("broken")
    except ValueError:
        structlog.get_logger().exception("agent.broken")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_journal_gets_priorities(tmp_path: Path) -> None:
    """When the journal reads the stream, each line carries its syslog priority in front."""
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        configure_logs(stream=stream, environ={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        structlog.get_logger().error("volume.lost")
        structlog.get_logger().info("volume.ready")
        stream.seek(0)
        lines = stream.read().splitlines()
    assert [line[:3] for line in lines] == ["<3>", "<6>"]
    assert json.loads(lines[0][3:])["event"] == "volume.lost"


@pytest.mark.parametrize("is_verbose", [False, True])
def test_details_are_for_those_who_ask(*, is_verbose: bool) -> None:
    """Debug lines appear with --debug only."""
    stream = io.StringIO()
    configure_logs(is_verbose=is_verbose, stream=stream, environ={})
    structlog.get_logger().debug("probe.done")
    assert ("probe.done" in stream.getvalue()) is is_verbose


def test_requests_to_the_cluster_are_no_lines_of_the_log() -> None:
    """The client that asks Kubernetes, the lease every few seconds, tells of no request that succeeds."""
    stream = io.StringIO()
    configure_logs(stream=stream, environ={})
    answer = httpx2.MockTransport(lambda _request: httpx2.Response(200))
    with httpx2.Client(transport=answer) as client:
        client.get("https://cluster.test/lease")
    assert stream.getvalue() == ""
