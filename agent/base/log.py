"""Where every module has its logger from: structlog, without rich.

structlog imports rich wherever it is installed, to colour tracebacks on terminals. The daemon writes to the
journal, and would spend more on that than on all the rest of structlog.
"""

from __future__ import annotations

from agent.base.lean_imports import hidden

__all__ = ["get_logger", "structlog"]

with hidden("rich"), hidden("colorama"):
    import structlog

get_logger = structlog.get_logger
