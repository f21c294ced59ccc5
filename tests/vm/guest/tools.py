"""The one place of the harness that runs programs of the host and waits for them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.vm.guest.errors import GuestError

SHOWN_BYTES = 8000


def run_tool(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program to its end and return its standard output; its output is in the error when it fails."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env=os.environ | dict(env or {}),
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GuestError(f"{argv[0]} did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace")[-SHOWN_BYTES:]
        raise GuestError(f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{output}")
    return done.stdout.decode(errors="replace")
