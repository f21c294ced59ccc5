"""What the examination of a node found, as values, and how they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

from agent.cli.show.output import print_json
from agent.core.errors import ExitCode


class Grade(str, Enum):
    """``WARNING`` is worth mending; the agent works without. ``FAILURE`` is not."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and what to do about it."""

    subject: str
    grade: Grade
    found: str
    mend: str | None = None


def show_findings(findings: Sequence[Finding], *, as_json: bool) -> ExitCode:
    """Print the findings and return the exit code they deserve."""
    is_ready = all(finding.grade is not Grade.FAILURE for finding in findings)
    if as_json:
        shown = [{**asdict(finding), "verdict": finding.grade} for finding in findings]  # its former name
        print_json({"ready": is_ready, "findings": shown})
    else:
        _print_findings(findings, is_ready=is_ready)
    return ExitCode.DONE if is_ready else ExitCode.FAILED


def _print_findings(findings: Sequence[Finding], *, is_ready: bool) -> None:
    from rich.text import Text  # noqa: PLC0415  # not for --json

    from agent.cli.show.render import print_view  # noqa: PLC0415

    signs = {
        Grade.OK: ("✓", "green"),
        Grade.WARNING: ("!", "yellow"),
        Grade.FAILURE: ("✗", "bold red"),
    }
    for finding in findings:
        sign, style = signs[finding.grade]
        line = Text.assemble((f"{sign} ", style), (f"{finding.subject:<20}", "bold"), finding.found)
        print_view(line)
        if finding.mend:
            print_view(Text(f"  {'':<20}{finding.mend}", style="dim"))
    print_view(Text("\nThis node is ready." if is_ready else "\nThis node is not ready.", style="bold"))
