"""What ``fleet --watch`` writes for programs: on standard output nothing else, whatever happens meanwhile."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from agent.cli.fleet import look
from agent.cli.fleet.look import Look, Source, show_watching
from agent.cli.fleet.rows import Choice, Row, View
from agent.cli.show.output import Output
from agent.core.errors import AgentError, ExitCode


class InterruptionError(Exception):
    """As who watches ends it."""


class UnsteadySource:
    """One that is away once, after it was asked once."""

    refresh_s = 0.0

    def __init__(self) -> None:
        self._views: Iterator[View | AgentError | InterruptionError] = iter(
            [
                make_view("n1"),
                AgentError("The broker b:1883 cannot be asked: refused.", exit_code=ExitCode.NO_ANSWER),
                make_view("n1", "n2"),
                InterruptionError(),
            ]
        )

    @asynccontextmanager
    async def looking(self, _: Choice) -> AsyncIterator[Look]:
        async def ask() -> View:
            view = next(self._views)
            if isinstance(view, Exception):
                raise view
            return view

        yield ask


def make_view(*nodes: str) -> View:
    rows = tuple(Row("c", node, "vol-1", "Ready", name="data") for node in nodes)
    return View(rows, nodes=len(nodes), offline=0, conditions={"Ready": len(nodes)})


@pytest.mark.parametrize("output", [Output.JSON, Output.NAME])
def test_what_programs_read_is_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, output: Output
) -> None:
    """Who does not answer for a while is said on standard error; JSON stays JSON, and names stay names."""
    monkeypatch.setattr(look, "RETRY_S", 0.0)
    with pytest.raises(InterruptionError):
        show_watching(cast("Source", UnsteadySource()), Choice(), output)
    written = capsys.readouterr()
    lines = written.out.splitlines()
    if output is Output.JSON:
        assert [json.loads(line)["nodes"] for line in lines] == [1, 2]
    else:
        assert lines == ["n1/data", "n1/data", "n2/data"]
    assert "cannot be asked" in written.err
