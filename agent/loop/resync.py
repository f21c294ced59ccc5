"""Looks at every volume now and then, for what nobody announces. At rest this is most of what the agent does.

So it is one call for several volumes that finds out whether any of them is otherwise than its last pass left
it, and only those are given another. A volume that hangs keeps the others of its call waiting for two
seconds, and after that it is not at rest.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from agent.loop.device_survey import Surveyor
from agent.loop.reconcile import Reconciler

AT_ONCE = 16
"""How many volumes at rest are looked at by one call."""
TURN_S = 0.5
"""How long the others wait for a volume that is given a pass in its turn."""


async def look_periodically(
    surveyor: Surveyor, reconciler: Reconciler, period_s: Callable[[], float]
) -> None:
    """After every ``period_s()`` seconds look at each volume, and for what the kernel never announced.

    Passes are made one after the other: on a processor that has just done the same one takes half as long, in
    a worker that is there already.
    """
    while True:
        await anyio.sleep(period_s())
        volumes = reconciler.list_volumes()
        for begin in range(0, len(volumes), AT_ONCE):
            for volume in await reconciler.find_restless(volumes[begin : begin + AT_ONCE]):
                reconciler.wake(volume)
                await reconciler.wait_settled([volume], TURN_S)
        await surveyor.find_unannounced()
