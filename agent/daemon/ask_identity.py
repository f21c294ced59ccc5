"""Asks again which node this is, for as long as an entry of the policy needs what is not known of it.

Whether AWS is asked about volumes makes no difference: a mount path or a match may need it all the same. What
tells it may come later than the agent, as the cluster's file does, or the network.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from agent.cloud.identity.identity_sources import choose_pause_s


class IdentityAsking:
    """``is_lacking`` tells whether anything is needed and not known, ``ask`` asks this node's own sources."""

    def __init__(self, is_lacking: Callable[[], bool], ask: Callable[[], Awaitable[object]]) -> None:
        self._is_lacking = is_lacking
        self._ask = ask
        self._news = anyio.Event()

    def wake(self) -> None:
        """Look whether anything is lacking now: the policy has changed, or what is known of this node."""
        self._news.set()

    async def run(self) -> None:
        """Ask, ever more seldom, while anything is lacking; until cancelled."""
        vainly = 0
        while True:
            self._news = anyio.Event()
            if not self._is_lacking():
                vainly = 0
                await self._news.wait()
                continue
            with anyio.move_on_after(choose_pause_s(vainly)) as pause:
                await self._news.wait()
            if pause.cancelled_caught:
                vainly += 1
                await self._ask()
