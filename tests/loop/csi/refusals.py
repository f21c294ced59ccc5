"""What a call is refused with."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from tests.csi.node_calls import UNCERTAIN


class Refusal(NamedTuple):
    """A code and its sentence."""

    status: Status
    message: str

    @property
    def is_final(self) -> bool:
        """Whether kubelet takes nothing to be there."""
        return self.status not in UNCERTAIN


def refuse(call: Callable[..., Any], *arguments: Any) -> Refusal:
    """Return how a call is refused, in a sentence at least; fail where it is not."""
    with pytest.raises(GRPCError) as raised:
        call(*arguments)
    message = raised.value.message or ""
    assert re.search(r"\w{3,} .*\.( |$)", message), f"no sentence: {message}"
    return Refusal(raised.value.status, message)
