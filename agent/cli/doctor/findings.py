"""What the examination of a node found, as values, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from msgspec import Struct, to_builtins

from agent.cli.show.output import print_json
from agent.core.errors import ExitCode

MAX_SUBJECT_COLUMNS = 32
"""Of the names of what was looked at: names of permissions are long, and break at their colon."""


class Grade(str, Enum):
    """``NOTE`` is worth knowing; ``WARNING`` is to be mended, and the agent works without.

    With a ``FAILURE`` it does not.
    """

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    FAILURE = "failure"


class Finding(Struct, frozen=True):
    """One thing looked at: what was found, and what to do about it."""

    subject: str
    grade: Grade
    found: str
    mend: str | None = None


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> ExitCode:
    """Print the findings and return the exit code they deserve."""
    is_ready = all(finding.grade is not Grade.FAILURE for finding in findings)
    if as_json:
        # A finding's grade was called its verdict.
        shown = [{**to_builtins(finding), "verdict": finding.grade} for finding in findings]
        print_json({"ready": is_ready, "findings": shown})
    else:
        _print_findings(findings, is_ready=is_ready)
    return ExitCode.DONE if is_ready else ExitCode.FAILED


def _print_findings(findings: Sequence[Finding], *, is_ready: bool) -> None:
    from rich.table import Table  # noqa: PLC0415  # not for --json
    from rich.text import Text  # noqa: PLC0415

    from agent.cli.show.render import print_view  # noqa: PLC0415

    signs = {
        Grade.OK: ("✓", "green"),
        Grade.NOTE: ("·", "dim"),
        Grade.WARNING: ("!", "yellow"),
        Grade.FAILURE: ("✗", "bold red"),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(style="bold", max_width=MAX_SUBJECT_COLUMNS, overflow="fold")
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.found)
        if finding.mend:
            text.append(f"\n{finding.mend}", style="dim")
        table.add_row(Text(*signs[finding.grade]), Text(finding.subject), text)
    print_view(table)
    print_view(Text(f"\n{_sum_up(findings, is_ready=is_ready)}", style="bold"))


def _sum_up(findings: Sequence[Finding], *, is_ready: bool) -> str:
    if not is_ready:
        return "This node is not ready."
    warnings = sum(finding.grade is Grade.WARNING for finding in findings)
    things = "one thing above is" if warnings == 1 else f"{warnings} things above are"
    return f"This node is ready; {things} to be mended." if warnings else "This node is ready."
