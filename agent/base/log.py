"""Where every module has its logger from: structlog, without rich.

structlog imports rich wherever it is installed, to colour tracebacks on terminals. The daemon writes to the
journal, and would spend more on that than on all the rest of structlog.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["get_logger", "structlog"]


@contextmanager
def _hiding(name: str) -> Iterator[None]:
    """Have a module look as if it were not installed, to what is imported meanwhile."""
    found = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # the import system's own sign for it
    try:
        yield
    finally:
        del sys.modules[name]
        if found is not None:
            sys.modules[name] = found


with _hiding("rich"):
    import structlog

get_logger = structlog.get_logger
