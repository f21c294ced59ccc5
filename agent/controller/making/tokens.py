"""Which client tokens of a name are used up, as far as AWS has told, so that none is tried in vain again.

A name's tokens come of the name alone, and every controller tries them in the same order. One whose volume is
deleted makes none any more, whoever asks. That is remembered only: a controller that begins anew learns it,
some tokens at each attempt.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Iterator

from msgspec import Struct, field

from agent.cloud.aws.making_calls import MakingCall
from agent.core.model import VolumeId
from agent.core.replace import replace

MOST_NAMES = 1024
"""Names of which something is remembered; of others it is learnt again."""


class _Used(Struct):
    burnt: set[int] = field(default_factory=set)
    """Numbers of tokens whose volumes are deleted."""
    differing: set[MakingCall] = field(default_factory=set)
    """Calls whose token AWS took for something else, which was waited for and is not there."""
    vanished: VolumeId | None = None
    """The last volume that AWS took back."""


class Tokens:
    """The tokens of all names that something was learnt of lately."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, _Used] = OrderedDict()

    def list_unused(self, name: str, asked: MakingCall) -> Iterator[tuple[int, MakingCall]]:
        """Return, without end, the calls that may make the volume, each with its token's number."""
        for number in itertools.count(1):
            used = self._names.get(name) or _Used()
            call = replace(asked, client_token=make_token(name, number))
            if number not in used.burnt and call not in used.differing:
                yield number, call

    def note_burnt(self, name: str, number: int) -> None:
        """Remember that the token's volume is deleted."""
        self._learn(name).burnt.add(number)

    def note_differing(self, name: str, call: MakingCall) -> None:
        """Remember that AWS took the call's token for something else, which is not there."""
        self._learn(name).differing.add(call)

    def note_vanished(self, name: str, volume_id: VolumeId) -> None:
        """Remember a volume that AWS took back."""
        self._learn(name).vanished = volume_id

    def count_used(self, name: str) -> int:
        """Return how many of the name's tokens are known to be used up."""
        used = self._names.get(name) or _Used()
        return len(used.burnt) + len({call.client_token for call in used.differing})

    def find_vanished(self, name: str) -> VolumeId | None:
        """Return the last volume of the name that AWS took back here."""
        used = self._names.get(name)
        return None if used is None else used.vanished

    def _learn(self, name: str) -> _Used:
        used = self._names.setdefault(name, _Used())
        self._names.move_to_end(name)
        while len(self._names) > MOST_NAMES:
            self._names.popitem(last=False)
        return used


def make_token(name: str, number: int) -> str:
    """Return the client token of the ``number``-th volume of a name, as AWS's driver has it, too."""
    text = name if number == 1 else f"{name}-{number}"
    return hashlib.sha256(text.encode()).hexdigest()
