"""The daemon's own command: its process stays, so it begins with as little as can be."""

# ruff: noqa: PLC0415  # what is imported when is what this module is about

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from pathlib import Path

from agent.base.paths import Paths


def read_plain_run(words: Sequence[str]) -> dict[str, Path] | None:
    """Return the options of ``[--root DIR] run [--devices DIR] [--policy FILE]``, None of all else.

    All else, help and mistakes too, is the parser's, which the daemon need not carry with it.
    """
    options: dict[str, Path] = {}
    known = {"--root"}
    rest = iter(words)
    for word in rest:
        if word == "run" and "--root" in known:
            known = {"--devices", "--policy"}
            continue
        value = next(rest, "-") if word in known else "-"
        if not value or value.startswith("-"):
            return None
        options[word] = Path(value)
    return None if "--root" in known else options


def run_daemon(paths: Paths, devices: Path | None = None, policy: Path | None = None) -> None:
    """Be the daemon until told to end."""
    from agent.node.isolate.forked_zygote import begin_confined, fork_zygote

    zygote = fork_zygote()
    # All of it stays, so the collector has no use for it, neither while it comes nor ever after.
    gc.disable()

    from agent.policy.policy_file import READER

    # It imports its libraries while this process imports the daemon.
    reader = begin_confined(zygote[1], READER)

    from agent import daemon  # isort: skip  # before all else, since it says what libraries are without

    import anyio

    from agent.base.error_barrier import find_cause
    from agent.base.log import get_logger
    from agent.core.errors import AgentError
    from agent.node.isolate.resource_limits import raise_descriptor_limit
    from agent.report.logs import configure_logs

    gc.freeze()
    gc.enable()
    raise_descriptor_limit()
    configure_logs(is_verbose="EBS_AGENT_DEBUG" in os.environ)
    try:
        anyio.run(daemon.run, paths, devices, policy, zygote, reader)
    except Exception as error:
        # What was meant is one sentence, which the command prints. Of all else nobody can ask a daemon again.
        if not isinstance(find_cause(error), AgentError):
            get_logger(__name__).exception("agent.crashed")
        raise
