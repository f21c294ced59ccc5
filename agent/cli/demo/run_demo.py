"""Plays the demo from beginning to end, and cleans up on every way out of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

import yaml

from agent.cli.client import Client, NoAnswerError
from agent.cli.demo.sandbox import Stage, check_machine
from agent.cli.demo.scenarios import SCENES
from agent.cli.demo.scene import Scene, check_play
from agent.cli.demo.view import View
from agent.core.errors import AgentError, ExitCode, InvalidValueError

START_TIMEOUT_S = 30.0
SCENE_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
TICK_S = 0.2
READING_PAUSE_S = 2.5
"""After each scene, when somebody watches."""


def run_demo(picture: Path | None = None) -> ExitCode:
    """Play the demo, and return once everything it made is gone.

    Off a terminal it ends with the last scene, and with DEMO_SECONDS in the environment after as many
    seconds; on a terminal it stays until Ctrl-C. Raises AgentError where it cannot play here, or where what
    it shows is not true.
    """
    check_machine()
    seconds = _read_seconds()
    stage = Stage.build()
    scenes = [scene(stage) for scene in SCENES]
    with _cleared(stage, scenes), _terminated_gently():
        write_policy(stage, scenes)
        _Play(stage, scenes, seconds).perform(picture)
        check_play(scenes)
    sys.stdout.write("Everything shown was checked on the disks themselves, and nothing is left behind.\n")
    return ExitCode.DONE


def write_policy(stage: Stage, scenes: Sequence[Scene]) -> None:
    """Write the policy file the agent works by."""
    policy = {
        "version": 1,
        "agent": {
            "http": {"listen": f"127.0.0.1:{stage.port}"},
            "cloud": {"enabled": False},
            "allowed_roots": [str(stage.mounts)],
        },
        "volumes": [
            {"name": scene.name, "match": {"volume_id": scene.volume_id}, **scene.entry()} for scene in scenes
        ],
    }
    stage.paths.policy.write_text(yaml.safe_dump(policy, sort_keys=False), encoding="utf-8")


class _Play:
    """The running agent, the audience's view, and the clock."""

    def __init__(self, stage: Stage, scenes: Sequence[Scene], seconds: float | None) -> None:
        self._stage = stage
        self._scenes = scenes
        self._client = Client(stage.paths.socket)
        self._view = View(scenes, stage.directory, _make_hints(stage))
        self._end_at = None if seconds is None else time.monotonic() + seconds
        self._begun: set[str] = set()

    def perform(self, picture: Path | None) -> None:
        """Start the agent, play every scene, and stay for as long as is asked for."""
        with _running_agent(self._stage) as agent, self._view.open():
            self._await_agent(agent)
            for scene in self._scenes:
                self._play_scene(scene, agent)
            self._tick(is_over=True)
            if picture is not None:
                self._view.save_picture(picture)
            self._stay(agent)

    def _await_agent(self, agent: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self._check_agent(agent)
            with suppress(NoAnswerError):
                self._client.status()
                return
            time.sleep(TICK_S)
        raise self._blame("The agent did not answer in time")

    def _play_scene(self, scene: Scene, agent: subprocess.Popen[bytes]) -> None:
        scene.begin()
        self._begun.add(scene.volume_id)
        deadline = time.monotonic() + SCENE_TIMEOUT_S
        while not scene.is_over:
            if time.monotonic() > deadline:
                raise self._blame(f"The scene of {scene.name} did not come to its end")
            self._check_agent(agent)
            self._tick()
        if self._view.is_live and self._end_at is None:
            pause_until = time.monotonic() + READING_PAUSE_S
            while time.monotonic() < pause_until:
                self._tick()

    def _stay(self, agent: subprocess.Popen[bytes]) -> None:
        if not self._view.is_live and self._end_at is None:
            return
        with suppress(KeyboardInterrupt):
            while self._end_at is None or time.monotonic() < self._end_at:
                self._check_agent(agent)
                self._tick(is_over=True)

    def _tick(self, *, is_over: bool = False) -> None:
        volumes = {volume["volume_id"]: volume for volume in self._client.status()["volumes"]}
        volumes = {volume_id: volume for volume_id, volume in volumes.items() if volume_id in self._begun}
        for scene in self._scenes:
            if scene.volume_id in volumes:
                scene.watch(volumes[scene.volume_id])
        self._view.show(volumes, list(self._client.events()), is_over=is_over)
        time.sleep(TICK_S)

    def _check_agent(self, agent: subprocess.Popen[bytes]) -> None:
        if agent.poll() is not None:
            raise self._blame(f"The agent ended with {agent.returncode}")

    def _blame(self, what: str) -> AgentError:
        lines = self._stage.log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        return AgentError(f"{what}. Its last words were:\n" + "\n".join(lines))


@contextmanager
def _running_agent(stage: Stage) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent as its own process, as a node does, and end it the way systemd would."""
    argv = [
        sys.executable,
        "-m",
        "agent",
        "--root",
        str(stage.paths.root),
        "run",
        "--devices",
        str(stage.volumes),
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EBS_AGENT_")}
    with stage.log.open("wb") as log:
        agent = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the demo, which ends the agent itself
        )
    try:
        yield agent
    finally:
        agent.terminate()
        try:
            agent.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


@contextmanager
def _cleared(stage: Stage, scenes: Sequence[Scene]) -> Iterator[None]:
    """Take everything away at the end, undisturbed by a second Ctrl-C, and say so if something stayed."""
    try:
        yield
    finally:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for scene in scenes:
            scene.end()
        stage.clear()
        signal.signal(signal.SIGINT, previous)
        if leftovers := stage.find_leftovers():
            raise AgentError(
                f"The demo could not take everything away: {', '.join(leftovers)}.",
                hint="Unmount with umount, and release loop devices with losetup --detach.",
            )


@contextmanager
def _terminated_gently() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo the way Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def _read_seconds() -> float | None:
    text = os.environ.get("DEMO_SECONDS")
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError as error:
        raise InvalidValueError(f"DEMO_SECONDS is {text!r}, which is not a number.") from error


def _make_hints(stage: Stage) -> list[str]:
    program = "ebs-agent" if shutil.which("ebs-agent") else os.path.relpath(sys.argv[0])
    root = f"{program} --root {stage.paths.root}"
    return [
        "Still at work. In another terminal, as root:",
        f"  {root} status --watch",
        f"  truncate -s +256M {stage.volumes}/{SCENES[2].volume_id}.img",
        f"  curl http://127.0.0.1:{stage.port}/metrics",
        "Ctrl-C ends the demo and takes everything away.",
    ]
