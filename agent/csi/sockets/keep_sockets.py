"""Keeps the two sockets that kubelet finds the agent at where kubelet looks, for as long as they are served.

They appear once kubelet has made the directory they belong in, move with its root, and outlive the agent in
systemd's store. What is left of an agent that died is removed before kubelet comes to try it.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from msgspec import Struct

from agent.base.log import get_logger
from agent.base.off_loop import Aside
from agent.core.errors import AgentError
from agent.csi.sockets.bind import bind_socket, find_path, remove_left, remove_stale
from agent.csi.sockets.fd_store import PREFIX, FdStore
from agent.csi.sockets.kubelet_root import Places, Seen, look_at_root, read_inode

WAIT_S = 0.25
"""How often it is looked for kubelet: pods wait for what it registers."""

WATCH_S = 2.0
"""How often it is looked whether the sockets are still where kubelet looks, and still to be there."""

ABSENT_S = 5.0
"""Likewise where there is no root directory of kubelet's at all, or something is in the way."""

_NAME = re.compile(rf"{PREFIX}(.+)-(?:endpoint|registration)-([0-9]+)", re.ASCII)

log = get_logger(__name__)


class Listeners(Struct, frozen=True):
    """Both sockets, listening."""

    places: Places
    endpoint: socket.socket
    registration: socket.socket
    inodes: tuple[int, int]
    """Of their files: what is at the paths is ours as long as it has these."""

    @property
    def names(self) -> tuple[str, str]:
        """Their names in systemd's store, which tell a later agent whether the files are still theirs."""
        return _name_sockets(self.places.driver, self.inodes)

    def is_in_place(self, seen: Seen) -> bool:
        return seen.root == self.places.root and (seen.endpoint_inode, seen.registration_inode) == self.inodes


def _name_sockets(driver: str, inodes: tuple[int, int]) -> tuple[str, str]:
    return f"{PREFIX}{driver}-endpoint-{inodes[0]}", f"{PREFIX}{driver}-registration-{inodes[1]}"


def _split_name(name: str) -> tuple[str, str]:
    """Return whose socket a name in systemd's store is, and the inode of its file."""
    found = _NAME.fullmatch(name)
    return ("", "") if found is None else (found[1], found[2])


class KubeletSockets:
    """The sockets of one driver below kubelet's root ``given``, as kubelet writes it.

    ``tell`` is told what is in their way, and None when nothing is any more. A root that is not there is in
    their way where kubelet is expected to be. ``is_current`` tells of a registration socket whether what
    kubelet was told there still holds: else both are made anew, and kubelet asks again.
    """

    def __init__(
        self,
        given: str,
        driver: str,
        store: FdStore,
        aside: Aside,
        tell: Callable[[AgentError | None], None],
        *,
        is_expected: bool = False,
        is_current: Callable[[socket.socket], bool] = lambda _: True,
    ) -> None:
        self._given = given
        self._driver = driver
        self._store = store
        self._aside = aside
        self._tell = tell
        self._is_expected = is_expected
        self._is_current = is_current
        self._listeners: Listeners | None = None

    async def run(self, serve: Callable[[Listeners], Coroutine[Any, Any, None]]) -> None:
        """Have ``serve`` answer at the sockets until cancelled, anew whenever they had to be made anew.

        Ended so, they stay for the next agent where systemd keeps them, and else are taken away.
        """
        try:
            while True:
                # Begun anew after an error, it serves those that are open.
                listeners = self._listeners = self._listeners or await self._open()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(serve, listeners)
                    await self._watch(listeners)
                    tasks.cancel_scope.cancel()
                log.info("csi.begun_anew", root=listeners.places.root)
                self.withdraw()
        finally:
            if not self._store.is_there:
                self.withdraw()

    def withdraw(self) -> None:
        """Take the sockets away: kubelet lets go of the driver, and starts no pods here that need it."""
        listeners, self._listeners = self._listeners, None
        if listeners is None:
            return
        places, (endpoint_inode, registration_inode) = listeners.places, listeners.inodes
        _unlink(places.registration, registration_inode)
        _unlink(places.endpoint, endpoint_inode)
        for sock, name in zip((listeners.endpoint, listeners.registration), listeners.names, strict=True):
            sock.close()
            self._store.forget(name)

    async def _open(self) -> Listeners:
        is_first = True
        while True:
            try:
                seen = await self._look()
                if seen.root is not None:
                    listeners = self._take_up(Places(seen.root, self._driver), seen, may_adopt=is_first)
                    is_first = False
                    if listeners is not None:
                        self._tell(None)
                        return listeners
                elif self._is_expected:
                    self._tell(self._explain_absence())
                pause_s = ABSENT_S if seen.root is None else WAIT_S
            except AgentError as error:
                self._tell(error)
                pause_s = ABSENT_S
            await anyio.sleep(pause_s)

    def _explain_absence(self) -> AgentError:
        return AgentError(
            f"kubelet's root directory {self._given} is not there, as agent.csi.enabled: true has it.",
            hint="Name another (agent.csi.kubelet_root), or write enabled: auto where a node may have none.",
        )

    def _take_up(self, places: Places, seen: Seen, *, may_adopt: bool) -> Listeners | None:
        """Return the sockets where they are, or can be made; None: before kubelet is there."""
        adopted = self._adopt(places, seen) if may_adopt else None
        # Those of this driver alone: the others are served as well, or were dropped at the start.
        others = {_split_name(name)[0] for name in self._store.found} - {self._driver}
        drop_stored(self._store, served=others, keep=adopted)
        if adopted is not None:
            log.info("csi.listening", socket=str(places.endpoint), kept=True)
            return adopted
        if not seen.is_kubelet_there:
            return None
        remove_stale(places.registration)
        endpoint = bind_socket(places.endpoint)
        try:
            registration = bind_socket(places.registration)
        except AgentError:
            endpoint.close()
            places.endpoint.unlink(missing_ok=True)
            raise
        inodes = (read_inode(places.endpoint) or 0, read_inode(places.registration) or 0)
        listeners = Listeners(places, endpoint, registration, inodes)
        for sock, name in zip((endpoint, registration), listeners.names, strict=True):
            self._store.keep(name, sock)
        log.info("csi.listening", socket=str(places.endpoint))
        return listeners

    def _adopt(self, places: Places, seen: Seen) -> Listeners | None:
        """Return the sockets that systemd kept, where both are still what is at their paths."""
        if seen.endpoint_inode is None or seen.registration_inode is None:
            return None
        inodes = (seen.endpoint_inode, seen.registration_inode)
        endpoint, registration = (self._store.found.get(name) for name in _name_sockets(self._driver, inodes))
        if endpoint is None or registration is None:
            return None
        are_there = (find_path(endpoint), find_path(registration)) == (places.endpoint, places.registration)
        if not are_there or not self._is_current(registration):
            return None
        return Listeners(places, endpoint, registration, inodes)

    async def _watch(self, listeners: Listeners) -> None:
        """Return once the sockets are not what kubelet finds any more, or not what it is to have."""
        while True:
            await anyio.sleep(WATCH_S)
            if not self._is_current(listeners.registration):
                return
            with suppress(AgentError):  # a disk that does not answer moves nothing
                if not listeners.is_in_place(await self._look()):
                    return

    async def _look(self) -> Seen:
        return await self._aside(look_at_root, self._given, self._driver, subject=self._given)


def drop_stored(store: FdStore, served: Collection[str] = (), keep: Listeners | None = None) -> None:
    """Take away what systemd kept of sockets that are not served any more: of another driver or root.

    What is kept for the drivers ``served``, and what ``keep`` has, is left.
    """
    for name, sock in list(store.found.items()):
        driver, inode = _split_name(name)
        if driver in served or (keep is not None and name in keep.names):
            continue
        path = find_path(sock)
        if path is not None and inode.isdecimal():
            _unlink(path, int(inode))
        store.forget(name)


async def clear_sockets(
    given: str, drivers: Iterable[str], store: FdStore, aside: Aside, served: Collection[str] = ()
) -> None:
    """Take away all that an agent which served ``drivers`` has left, now that this one serves others."""
    drop_stored(store, served)
    for driver in drivers:
        await aside(remove_left, given, driver, subject=given)


def _unlink(path: Path, inode: int) -> None:
    """Remove our file, and not the one that somebody else has put there since."""
    with suppress(OSError):
        if read_inode(path) == inode:
            path.unlink()
