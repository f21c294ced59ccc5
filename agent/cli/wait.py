"""``ebs-agent wait``: until volumes are ready, across a late start and restarts of the agent."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from agent.cli.client import Client, NoAnswerError
from agent.cli.show.estimate import WHOLE
from agent.cli.show.output import print_json
from agent.cli.show.progress import Telling, telling
from agent.core.errors import AgentError, ExitCode

_NOTHING = "Nothing was waited for: no volume is named, and the policy requires none (required: true).\n"
RETRY_S = 0.5
"""Between attempts to reach an agent that does not answer: at boot it may start after its users."""


def wait_for(
    client: Client,
    names: list[str],
    timeout_s: float,
    *,
    is_quiet: bool = False,
    as_json: bool = False,
    leaves_creation: bool = False,
) -> None:
    """Return once the volumes called ``names`` (all required ones when empty) are ready.

    With ``as_json`` how they were in the end is printed: the last line the agent told, if it told one.
    ``leaves_creation``: return as well where all that is missing waits for the cluster to be InService. A
    script that the cluster's creation waits for would otherwise wait for itself.

    Raises AgentError with exit code 3 where they are not in time, naming each one and why, and with exit
    code 4 where the agent did not answer at all.
    """
    what = f"wait for {', '.join(names) or 'all required volumes'}"
    shown = nullcontext() if is_quiet else telling(what, to_stderr=True, most_s=timeout_s)
    with shown as progress:
        last, is_ready = _wait(client, names, timeout_s, progress, leaves_creation=leaves_creation)
    if last is not None and is_ready:
        _end_well(last, as_json=as_json)
        return
    if as_json and last is not None:
        print_json(last)
    raise AgentError(
        f"Not ready after {timeout_s:g} s: {_show(last or {})}",
        hint="See why: ebs-agent status; ebs-agent explain VOLUME.",
        exit_code=ExitCode.NOT_READY,
    )


def _wait(
    client: Client, names: list[str], timeout_s: float, progress: Telling | None, *, leaves_creation: bool
) -> tuple[dict[str, Any] | None, bool]:
    """Return the last line told, and whether waiting ended well; raise where the agent never answered."""
    deadline = time.monotonic() + timeout_s
    last: dict[str, Any] | None = None
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            for line in client.wait(names, left_s):
                if line["ready"] or (leaves_creation and _leaves(line)):
                    return line, True
                if progress is not None and line != last:
                    progress.tell(_show(line))
                    progress.tell(None, _find_percent(line))
                last = line
        except NoAnswerError:
            if time.monotonic() + RETRY_S >= deadline and last is None:
                raise
        if time.monotonic() + RETRY_S >= deadline:
            return last, False
        time.sleep(RETRY_S)


def _find_percent(line: Mapping[str, Any]) -> float | None:
    """Return how many of the volumes are ready; None where the agent does not say of how many it tells."""
    counted = line.get("volumes")
    return WHOLE * (counted - len(line["waiting"])) / counted if counted else None


def _end_well(line: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(line)
    # An agent of an earlier build does not say how many volumes it is about.
    if line.get("volumes") == 0:
        sys.stderr.write(_NOTHING)


def _leaves(line: Mapping[str, Any]) -> bool:
    """Return whether all that is missing waits for the cluster to be InService; say so if it does."""
    from agent.cloud.errors.hyperpod_rules import WHILE_IN_SERVICE  # noqa: PLC0415 - for lifecycle scripts only

    waiting = line.get("waiting", [])
    if not waiting or not all(WHILE_IN_SERVICE in (volume["message"] or "") for volume in waiting):
        return False
    why = "the cluster is not InService before its lifecycle scripts have ended"
    sys.stderr.write(f"Not waited for, since {why}: {_show(line)}\n")
    return True


def _show(line: Mapping[str, Any]) -> str:
    waiting = line.get("waiting", [])
    if not waiting:
        return "the agent has not looked at every volume yet."
    return "; ".join(
        f"{volume['name'] or volume['volume_id']} is {volume['condition']}"
        + (f" ({volume['reason']}): {volume['message']}" if volume["reason"] else "")
        for volume in waiting
    )
