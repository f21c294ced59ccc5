"""Mount namespaces of a test's own, in which the mounts of other tests are not kept.

A new namespace has a copy of every mount there is, so what other tests mount is in use for as long as it
lives.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRIPT = r"""
awk -v kept="$1/" -v all="$2/" 'index($5 "/", all) == 1 && index($5 "/", kept) != 1 { print $5 }' \
    /proc/self/mountinfo | xargs --no-run-if-empty --max-args=1 umount --lazy
shift 2
exec "$@"
"""


def make_argv(kept: Path, *argv: str, propagation: str = "private") -> list[str]:
    """Return how to run a program in a namespace where tests have nothing mounted but below ``kept``.

    ``propagation``: ``slave`` where it is to get what is mounted and unmounted outside.
    """
    unshare = ("unshare", "--mount", "--propagation", propagation, "sh", "-c", _SCRIPT, "sh")
    return [*unshare, str(kept), tempfile.gettempdir(), *argv]


@contextmanager
def keep_mounts(kept: Path, for_s: int = 600) -> Iterator[int]:
    """Have a process keep what is mounted below ``kept`` now, whatever is unmounted here; give its number."""
    argv = make_argv(kept, "sh", "-c", f"echo; exec sleep {for_s}")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()
