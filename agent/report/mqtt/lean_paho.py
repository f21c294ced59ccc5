"""Where aiomqtt is had from without urllib, which paho imports for proxies found in the environment.

Those it would only ask with PySocks, which the agent does not have; and with urllib come http and email, more
memory than paho itself takes.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["aiomqtt"]

_NAME = "urllib.request"


@contextmanager
def _standing_in() -> Iterator[None]:
    """Have a module that knows of no proxy stand where urllib's would be imported; afterwards it is gone."""
    if _NAME in sys.modules:
        yield
        return
    stand_in = types.ModuleType(_NAME)
    vars(stand_in)["getproxies"] = dict
    sys.modules[_NAME] = stand_in
    try:
        yield
    finally:
        del sys.modules[_NAME]


with _standing_in():
    import aiomqtt
