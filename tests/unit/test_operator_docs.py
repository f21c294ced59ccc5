"""What the operator's documents say holds: reasons, events, metrics, permissions, settings, files, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.cloud.aws.iam_statements import STATEMENTS
from agent.core.model import NodeReason, Reason
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.events import EventName
from agent.report.health.verdicts import RULES
from agent.report.metrics.exposition import Exposition

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
STARTS = tuple(sorted(page.name for page in DOCS.glob("start-*.md")))
PAGES = ("install-slurm.md", "install-eks.md", "s3.md", "upgrade.md", "troubleshoot.md", *STARTS)


def test_every_reason_has_a_remedy() -> None:
    """docs/troubleshoot.md has a row for each reason of a volume or the node, with remedy, and no others."""
    text = (DOCS / "troubleshoot.md").read_text()
    text = text[text.index("## Reasons") :]
    rows = re.findall(r"^\| `([A-Z]\w+)` \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(reason.value for reason in (*Reason, *NodeReason))
    assert all(meaning.strip() and remedy.strip() for _, meaning, remedy in rows)


def test_every_event_is_listed() -> None:
    """docs/events.md has every event there is, each once, and no others."""
    rows = re.findall(r"^\| (`[^|]+`) \| [^|]*\| [^|]*\|$", (DOCS / "events.md").read_text(), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([a-z_]+\.[a-z_]+)`", row)]
    assert sorted(names) == sorted(name.value for name in EventName)


def _expand(name: str) -> list[str]:
    """Return the names that one with alternatives in braces stands for."""
    found = re.search(r"\{([^}]*)\}", name)
    if found is None:
        return [name]
    before, after = name[: found.start()], name[found.end() :]
    return [one for word in found[1].split(",") for one in _expand(f"{before}{word}{after}")]


def test_every_metric_is_listed() -> None:
    """docs/metrics.md has every metric that is exposed, each once and with its type, and no others."""
    rows = re.findall(r"^\| (`[^|]+`) \| ([a-z, ]+) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    told = {}
    for names, kinds in rows:
        for name in re.findall(r"`([^`]+)`", names):
            for one in _expand(re.sub(r"\{[^}]*\}$", "", name)):
                assert one not in told, one
                told[one] = set(kinds.split(", "))
    exposed = Exposition(Board(), Counters()).render()[0].decode()
    kinds_of = dict(re.findall(r"^# TYPE ebs_agent_(\w+) (\w+)$", exposed, re.MULTILINE))
    assert told.keys() == kinds_of.keys()
    assert {name for name, kind in kinds_of.items() if kind not in told[name]} == set()


def test_every_permission_is_listed() -> None:
    """docs/iam.md names every action that a call of the agent needs."""
    text = (DOCS / "iam.md").read_text()
    actions = {statement.action for needed in STATEMENTS.values() for statement in needed}
    assert {action for action in actions if f"`{action}`" not in text} == set()


def test_every_verdict_is_explained() -> None:
    """docs/health.md tells of each reason that health finds."""
    told = re.findall(r"^### (\w+)$", (DOCS / "health.md").read_text(), re.MULTILINE)
    assert {reason.value for reason in RULES} <= set(told)


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
