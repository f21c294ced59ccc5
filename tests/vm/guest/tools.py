"""The one place of the harness that runs programs of the host and waits for them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.vm.guest.errors import GuestError

SHOWN_BYTES = 8000
# mkfs is where an unprivileged user's shell does not look.
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def run_tool(argv: Sequence[str | Path], *, timeout_s: float) -> str:
    """Run a program to its end and return its standard output; its output is in the error when it fails."""
    try:
        done = subprocess.run(
            [str(word) for word in argv],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_s,
            env={**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GuestError(f"{argv[0]} did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        output = (done.stdout + done.stderr).decode(errors="replace")[-SHOWN_BYTES:]
        raise GuestError(f"{' '.join(map(str, argv))} ended with {done.returncode}:\n{output}")
    return done.stdout.decode(errors="replace")
