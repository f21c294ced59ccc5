"""The zygote as the daemon has it: started where there is none, given its orders, ended.

What it does inside is ``zygote``'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

from agent.core.errors import ShortageError
from agent.core.exhaustion import explain_shortage, is_shortage
from agent.core.model import Reason
from agent.node.isolate import messages
from agent.node.isolate.forked_zygote import Forked
from agent.node.isolate.messages import Fd
from agent.node.isolate.zygote import ENVIRONMENT, Confine, Fork, Kill

_RETRY_S = 0.1
"""Until a zygote that took no order is told again."""

# It imports from where the daemon does, and processes no site files: those of a venv cost more than it.
_PROGRAM = """\
import sys
sys.path[:] = sys.argv[3:]
from agent.node.isolate.zygote import main
main(int(sys.argv[1]), int(sys.argv[2]))
"""


class ZygoteProcess:
    """The process that forks workers, and the socket its orders go to.

    ``forked``: one that was forked off the daemon earlier; without it, or when it has died, a fresh
    interpreter is started. Only in the daemon's main thread: the kernel ends the zygote with the thread that
    started it.
    """

    def __init__(self, forked: tuple[Forked, socket.socket] | None = None) -> None:
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._control: socket.socket | None = None
        self._unsent: list[int] = []
        """Workers to be killed of which it could not be told yet."""
        self._timer: asyncio.TimerHandle | None = None
        if forked is not None:
            self._process, self._control = forked

    def start(self) -> None:
        """Have a zygote, before it is needed."""
        if self._process is None:
            self._start()

    def fork(self, number: int, sock: socket.socket) -> None:
        """Have worker ``number`` forked, which serves ``sock``; by another zygote where this one has died.

        Raises ShortageError where it takes no order now, or there is no room for another process.
        """
        self._order(Fork(number, Fd(sock.fileno())))

    def confine(self, number: int, sock: socket.socket, function: str) -> None:
        """Have a confined process forked, which answers at ``sock``; raises as ``fork`` does."""
        self._order(Confine(number, Fd(sock.fileno()), function))

    def _order(self, order: Fork | Confine) -> None:
        message, fds = messages.encode(order)
        try:
            try:
                control = self._control or self._start()
                control.sendmsg([message], messages.ancillary(fds))
            except ConnectionError:
                self.stop()
                self._start().sendmsg([message], messages.ancillary(fds))
        except BlockingIOError as error:
            raise ShortageError(
                "The process that starts workers has not taken the orders before yet.",
                hint="The machine is short of processors or memory; it is tried again by itself.",
                reason=Reason.NODE_EXHAUSTED,
            ) from error
        except OSError as error:
            if is_shortage(error):
                raise explain_shortage("A worker could not be started", error) from error
            raise

    def kill(self, number: int) -> None:
        """Have worker ``number`` killed, without waiting for its death.

        With the zygote gone the kernel has killed it already. One that takes no order now is told later: the
        other workers are at work, and end with it.
        """
        if self._control is None:
            return
        message, _ = messages.encode(Kill(number))
        try:
            self._control.send(message)
        except ConnectionError:
            self.stop()
        except OSError:
            self._unsent.append(number)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_RETRY_S, self._send_unsent)

    def _send_unsent(self) -> None:
        self._timer = None
        unsent, self._unsent = self._unsent, []
        for number in unsent:
            self.kill(number)

    def stop(self) -> None:
        """End the zygote, and with it every worker that can die."""
        self._unsent.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            # It touches no device, so it dies at once; a machine out of memory is not waited for.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)
            self._process = None

    def _start(self) -> socket.socket:
        # Orders are told apart by their packets: two may come at once.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, "-I", "-S", "-c", _PROGRAM, str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                [*argv, *(str(Path(entry).absolute()) for entry in sys.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=ENVIRONMENT,
                start_new_session=True,
            )
        ours.setblocking(False)  # noqa: FBT003 -- its only form
        self._control = ours
        return ours
