"""Gives each of many who asked together what AWS said of theirs, and nobody another's trouble.

Where something of an answer cannot be read, and it is not told whose that is, the halves are asked again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import TypeVar

from agent.cloud.aws.answer_fields import Unread, split
from agent.cloud.errors.explain import CloudError, explain_unread
from agent.core.errors import AgentError

K = TypeVar("K", bound=str)
T = TypeVar("T")

NOT_UNDERSTOOD = "NotUnderstood"
"""The code of an answer that cannot be read at all."""


async def ask_for_each(
    keys: Sequence[K],
    ask: Callable[[Sequence[K]], Awaitable[Iterable[T | Unread]]],
    name: Callable[[T], str | None],
    *,
    names_unread: bool = True,
    fails_for_all: Collection[str] = (),
) -> dict[K, tuple[T, ...] | AgentError]:
    """Return what is said of each key, in the answer's order; of one whose entry cannot be read its error.

    ``name`` gives the key that an entry is about; ``names_unread``: so does the name of an unread one.
    ``fails_for_all``: codes by which one of the keys fails the call for all. Any other error of the call
    itself is raised.
    """

    async def ask_halves() -> dict[K, tuple[T, ...] | AgentError]:
        middle = len(keys) // 2
        both: dict[K, tuple[T, ...] | AgentError] = {}
        for half in (keys[:middle], keys[middle:]):
            both |= await ask_for_each(
                half, ask, name, names_unread=names_unread, fails_for_all=fails_for_all
            )
        return both

    try:
        found, unread = split(await ask(keys))
    except CloudError as error:
        if error.code != NOT_UNDERSTOOD and error.code not in fails_for_all:
            raise
        if len(keys) == 1:
            return {keys[0]: error}
        return await ask_halves()
    known = {str(key) for key in keys}
    named = {one.name: one for one in unread if names_unread and one.name in known}
    loose = [one for one in unread if not names_unread or one.name not in known]
    if loose and len(keys) == 1:
        return {keys[0]: explain_unread(loose[0])}
    if loose:
        return await ask_halves()
    said: dict[str, list[T]] = {}
    for one in found:
        said.setdefault(name(one) or "", []).append(one)
    return {key: explain_unread(named[key]) if key in named else tuple(said.get(key, ())) for key in keys}
