"""Where log lines go and what they look like. Every line of the process passes here, libraries' too.

On a terminal: readable columns. Anywhere else: one JSON object a line, and when the journal reads it, led by
the ``<N>`` priority of sd-daemon(3) so that ``journalctl -p warning`` works; the journal takes it off again.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from agent.base.log import structlog

PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""syslog(3) priorities of the levels in use."""

NOISY_LOGGERS = ("botocore", "boto3", "urllib3", "httpx2", "httpcore2", "asyncio")


def configure_logs(
    *, is_verbose: bool = False, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ
) -> None:
    """Route structlog and the standard library's logging to ``stream`` (standard error when None)."""
    stream = stream or sys.stderr
    shared = _shared_processors()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_rendering(stream, environ),
        ],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if is_verbose else logging.INFO)
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether the journal reads ``stream``: systemd names its device and inode in JOURNAL_STREAM."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _rendering(stream: TextIO, environ: Mapping[str, str]) -> list[structlog.typing.Processor]:
    if stream.isatty():
        return [structlog.dev.ConsoleRenderer()]
    json_lines: list[structlog.typing.Processor] = [
        structlog.processors.ExceptionRenderer(),
        structlog.processors.JSONRenderer(default=str),
    ]
    return [_Prioritised(json_lines)] if is_journal(stream, environ) else json_lines


class _Prioritised:
    """Renders a line and puts its syslog priority in front."""

    def __init__(self, rendering: list[structlog.typing.Processor]) -> None:
        self._rendering = rendering

    def __call__(
        self, logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> str:
        priority = PRIORITIES.get(str(event.get("level")), PRIORITIES["info"])
        line: structlog.typing.ProcessorReturnValue = event
        for processor in self._rendering:
            line = processor(logger, method, line)  # type: ignore[arg-type]  # a chain feeds each the last one's result
        return f"<{priority}>{line!s}"
