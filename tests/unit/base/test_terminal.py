from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agent.base.terminal import Terminal

WAITER = """
import os, signal, sys
from agent.base.terminal import Terminal

heard = []
signal.signal(signal.SIGHUP, lambda *_: heard.append("SIGHUP"))
if len(sys.argv) > 1:
    os.open(sys.argv[1], os.O_RDWR)  # a session's leader gets it as its own
terminal = Terminal()
os.kill(os.getpid(), signal.SIGHUP)
has_closed = terminal.has_closed
heard.clear()  # before it is told: the terminal closes then
print(has_closed, flush=True)
sys.stdin.readline()
print(heard, terminal.has_closed, flush=True)
"""


@pytest.mark.parametrize("has_terminal", [True, False], ids=["in a terminal", "as a service"])
def test_terminal_that_closes_is_told_from_a_wish_to_reload(*, has_terminal: bool) -> None:
    """A SIGHUP that somebody sends leaves the terminal there; the one of a terminal that closes does not."""
    ours, theirs = os.openpty()
    argv = [sys.executable, "-c", WAITER, *([os.ttyname(theirs)] if has_terminal else [])]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "False\n"
        os.close(theirs)
        os.close(ours)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == ("['SIGHUP'] True\n" if has_terminal else "[] False\n")


def test_process_without_a_terminal_has_lost_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be opened there was nothing."""
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError))
    assert not Terminal().has_closed
