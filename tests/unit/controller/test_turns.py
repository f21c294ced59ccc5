"""Turns: one at a time, in order, and nothing left behind."""

from __future__ import annotations

import asyncio

import pytest

from agent.controller.turns import Turns


def test_deeds_on_one_volume_come_in_the_order_in_which_they_were_asked_for() -> None:
    """Neither two at once, nor one that came later first; another volume's waits for nobody."""

    async def run() -> list[str]:
        turns, told = Turns(), list[str]()

        async def do(name: str, deed: str) -> None:
            async with turns.take(name):
                told.append(f"{deed} begins")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                told.append(f"{deed} ends")

        await asyncio.gather(do("a", "first"), do("a", "second"), do("b", "other"), do("a", "third"))
        assert len(turns) == 0
        return told

    told = asyncio.run(run())
    assert [one for one in told if not one.startswith("other")] == [
        f"{deed} {what}" for deed in ("first", "second", "third") for what in ("begins", "ends")
    ]
    assert told.index("other begins") < told.index("first ends")


def test_who_gives_up_or_fails_lets_the_next_one_in() -> None:
    async def run() -> None:
        turns = Turns()

        async def fail() -> None:
            async with turns.take("a"):
                await asyncio.sleep(0)
                raise LookupError

        async def wait() -> None:
            async with turns.take("a"):
                pass

        failing, leaving, staying = (asyncio.create_task(one()) for one in (fail, wait, wait))
        await asyncio.sleep(0)
        leaving.cancel()
        await staying
        with pytest.raises(LookupError):
            await failing
        assert len(turns) == 0

    asyncio.run(run())
