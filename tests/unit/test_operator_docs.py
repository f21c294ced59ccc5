"""What the operator's documents say holds: reasons, settings, files, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.core.model import Reason
from agent.report.board.events import EventName

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ("install-slurm.md", "install-eks.md", "s3.md", "upgrade.md", "troubleshoot.md")


def test_every_reason_has_a_remedy() -> None:
    """docs/troubleshoot.md has a row for each reason a volume can have, with a remedy, and no others."""
    text = (DOCS / "troubleshoot.md").read_text()
    text = text[text.index("## Reasons") :]
    rows = re.findall(r"^\| `([A-Z]\w+)` \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(reason.value for reason in Reason)
    assert all(meaning.strip() and remedy.strip() for _, meaning, remedy in rows)


def test_every_event_is_listed() -> None:
    """docs/events.md has every event there is, each once, and no others."""
    rows = re.findall(r"^\| (`[^|]+`) \| [^|]*\| [^|]*\|$", (DOCS / "events.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", row)]
    assert sorted(names) == sorted(name.value for name in EventName)


def test_every_setting_is_one_the_scripts_read() -> None:
    """Each EBS_AGENT_ name in these pages and in ebs-agent.conf is read by a script or the agent."""
    scripts = "".join(path.read_text() for path in (ROOT / "lifecycle_scripts").glob("*.sh"))
    code = scripts + "".join(path.read_text() for path in (ROOT / "agent").rglob("*.py"))
    pages = [DOCS / page for page in PAGES]
    for page in (*pages, ROOT / "lifecycle_scripts/ebs-agent.conf"):
        for name in re.findall(r"EBS_AGENT_[A-Z0-9_]+", page.read_text()):
            assert name in code, f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every file these pages link to exists."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (DOCS / page).read_text()):
        assert (DOCS / target).exists(), target


def test_units_point_to_documents_that_are_installed() -> None:
    """The address `systemctl status` shows is a file that the bundle brings."""
    addresses = re.compile(r"^Documentation=file:\S+/share/doc/ebs-agent/(\S+)$", re.MULTILINE)
    for unit in (ROOT / "systemd").iterdir():
        for name in addresses.findall(unit.read_text()):
            assert (DOCS / name).exists()
