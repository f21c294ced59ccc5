"""Long work on a real terminal: a bar with the time left, and nothing of it where programs read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from queue import Queue
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Thread
from typing import Any

import pytest
from typing_extensions import override

from tests.terminal import on_terminal

VOLUME = "vol-0123456789abcdef0"
SNAPSHOT = "snap-0123456789abcdef0"
ANSWER = {"done": True, "snapshot_id": SNAPSHOT, "state": "completed"}


class Agent(ThreadingMixIn, UnixStreamServer):
    """An agent that tells what it is told to."""

    daemon_threads = True
    lines: Queue[dict[str, Any] | None]


class Handler(BaseHTTPRequestHandler):
    """Answers one order."""

    def do_POST(self) -> None:
        assert isinstance(self.server, Agent)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        while (line := self.server.lines.get()) is not None:
            self.wfile.write(json.dumps(line).encode() + b"\n")

    @override
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with Agent(str(tmp_path / "agent.sock"), Handler) as server:
        server.lines = Queue()
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.lines.put(None)
            server.shutdown()
            thread.join()


def tell(agent: Agent, percent: int, state: str = "pending") -> None:
    agent.lines.put({"text": f"{SNAPSHOT} is {state}, {percent} %.", "percent": percent})


def end(agent: Agent) -> None:
    tell(agent, 100, "completed")
    agent.lines.put(ANSWER)
    agent.lines.put(None)


def ask(agent: Agent, *words: str) -> tuple[str, ...]:
    return ("--socket", str(agent.server_address), *words)


def test_a_bar_tells_how_far_it_is_and_how_long_it_takes(agent: Agent) -> None:
    """Before there is a rate it tells how long it has taken; sentences stand above, and stay."""
    with on_terminal(100, *ask(agent, "snapshot", "ckpt", "--wait")) as screen:
        agent.lines.put({"text": f"{SNAPSHOT} of {VOLUME} has begun."})
        screen.wait_for(lambda text: "has begun." in text and "snapshot ckpt" in text, "it has begun")
        tell(agent, 1)
        screen.wait_for(lambda text: "1 %" in text and "s so far" in text, "it is told how far it is")
        tell(agent, 2)
        screen.wait_for(lambda text: "2 %" in text and "left" in text, "it is told how long it takes")
        end(agent)
        screen.wait_for(lambda text: f"{SNAPSHOT} is completed, 100 %." in text, "it is done")
        assert screen.process.wait(30) == 0


def test_what_has_no_number_has_the_time_so_far(agent: Agent) -> None:
    """A detach takes as long as it takes, and the command says that it waits, and for what."""
    with on_terminal(60, *ask(agent, "detach", "ckpt")) as screen:
        agent.lines.put({"text": f"{VOLUME} is detaching from this node."})
        screen.wait_for(lambda text: "is detaching" in text and "detach ckpt" in text, "it is told what is")
        screen.wait_for(lambda text: "1 s so far" in text, "the time goes on")
        agent.lines.put({"done": True, "volume_id": VOLUME})
        agent.lines.put(None)
        assert screen.process.wait(30) == 0


def test_waiting_counts_volumes(agent: Agent) -> None:
    """Of the volumes waited for it is told how many are ready, who is not, and when time is up."""
    volume = {"volume_id": VOLUME, "name": "ckpt", "condition": "Preparing", "reason": None}
    waiting = [{**volume, "message": "check the xfs filesystem", "hint": None}]
    with on_terminal(100, *ask(agent, "wait", "--timeout", "600")) as screen:
        agent.lines.put({"ready": False, "first_look_done": True, "volumes": 4, "waiting": waiting})
        screen.wait_for(
            lambda text: "ckpt is Preparing" in text and "75 %" in text, "it is told what is missing"
        )
        screen.wait_for(lambda text: "10 min at most" in text, "it is told when time is up")
        agent.lines.put({"ready": True, "first_look_done": True, "volumes": 4, "waiting": []})
        agent.lines.put(None)
        assert screen.process.wait(30) == 0


@contextmanager
def run(agent: Agent, *words: str) -> Iterator[subprocess.Popen[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EBS_AGENT")}
    argv = [sys.executable, "-m", "agent", *ask(agent, *words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        yield process


@pytest.mark.parametrize("as_json", [False, True])
def test_off_a_terminal_there_are_lines(agent: Agent, *, as_json: bool) -> None:
    """Now and then one, without a bar; with JSON they are apart from the answer."""
    for percent in range(0, 100, 5):
        tell(agent, percent)
    end(agent)
    with run(agent, "snapshot", "ckpt", "--wait", *(("--json",) if as_json else ())) as process:
        out, err = process.communicate(timeout=60)
    told = (err if as_json else out).splitlines()
    assert len(told) == 11
    assert told[-1] == f"{SNAPSHOT} is completed, 100 %."
    assert "\x1b" not in out + err
    assert json.loads(out) == ANSWER if as_json else err == ""
