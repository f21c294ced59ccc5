"""The house keeps its plan: who imports whom, how full a room is, how long a module."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.floors import DESIGN, PACKAGE, find_breaches, find_circle, find_modules, render

ROOT = PACKAGE.parent
MOST_LINES = 300
LONGER: dict[str, str] = {}
"""Modules that are longer, each with the reason."""
MOST_MODULES = 12
FULLER: dict[str, str] = {
    "": "what python -m agent runs, alone",
    "node": "the machine alone, which composes all the rooms of its floor",
}
"""Rooms that hold more, or fewer than three, each with the reason."""


def test_floors_are_kept() -> None:
    """Nothing is imported from above, nor from the room beside; not even for an annotation."""
    assert list(find_breaches(find_modules())) == []


def test_no_modules_import_each_other() -> None:
    """There is no circle, however long, not even one of annotations."""
    assert find_circle(find_modules()) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"agent.core.plan": "import agent.node.machine"},
        {"agent.core.plan": "from agent.node import machine"},
        {"agent.core.plan": "from agent.node.filesystem.mount import mount"},
        {"agent.core.plan": "def look():\n    from agent.node.filesystem import mount"},
        {"agent.node.machine": "from agent.policy import Policy"},
        {"agent.node.kernel.sysfs": "from agent.node.isolate.workers import Workers"},
        {"agent.node.content.blankness": "from agent.node.standins.files import x"},
        {"agent.core.model": "if TYPE_CHECKING:\n    from agent.loop.passes import Pass"},
    ],
)
def test_breach_is_found(sources: dict[str, str]) -> None:
    """An import from above or beside is found in whatever form it is written."""
    known = dict.fromkeys(find_modules(), "")
    assert len(list(find_breaches(known | sources))) > 0


def test_circle_is_found() -> None:
    """Three modules that import each other in turn are a circle; one that only imports them is none of it."""
    sources = {
        "agent.core.a": "import agent.core.b",
        "agent.core.b": "from agent.core import c",
        "agent.core.c": "from agent.core.a import x",
        "agent.core.d": "import agent.core.a",
    }
    assert set(find_circle(sources)) == {"agent.core.a", "agent.core.b", "agent.core.c"}


def test_drawing_is_the_table() -> None:
    """docs/design.md draws the floors as they are."""
    document = DESIGN.read_text("utf-8")
    assert render(document) == document


def test_every_package_says_what_lives_there() -> None:
    """The first sentence of each package's docstring says it."""
    silent = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("__init__.py")
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_no_module_is_long() -> None:
    """Each is read in one sitting; what is longer has its reason, and loses it when it is not any more."""
    long = {module for module, source in find_modules().items() if source.count("\n") > MOST_LINES}
    assert long == LONGER.keys()


def test_no_room_is_crowded() -> None:
    """A folder holds three to a dozen modules."""
    counts = Counter(
        ".".join(path.relative_to(PACKAGE).parts[:-1])
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    )
    assert {room for room, count in counts.items() if not 3 <= count <= MOST_MODULES} == FULLER.keys()


@pytest.mark.parametrize("name", ["docs/design.md", "CONTRIBUTING.md"])
def test_documents_lead_to_what_is_there(name: str) -> None:
    """Every module, folder and test that they name exists, as from the repository or from ``agent/``."""
    named = re.findall(r"`((?!build/)[\w.]+/[\w./]*)(?<!TARGET/)`", (ROOT / name).read_text("utf-8"))
    assert [path for path in named if not (ROOT / path).exists() and not (PACKAGE / path).exists()] == []
    assert len(named) > MOST_MODULES


DOCUMENTS = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*.md"))]
BESIDE = {
    "emulated-ebs.md": ROOT / "tests/ebs",
    "testing-guest.md": ROOT / "tests/vm/guest",
    "testing-kubernetes.md": ROOT / "tests/kubernetes",
}
"""Documents about one folder, which they name files of."""
OF_OTHERS = {"lifecycle_script.py"}
"""HyperPod's sample."""


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_modules_by_their_path(path: Path) -> None:
    """A module is named with the folders that lead to it, so that no document names one that has moved."""
    named = set(re.findall(r"`([\w./-]+\.py)`", path.read_text("utf-8"))) - OF_OTHERS
    places = (ROOT, PACKAGE, BESIDE.get(path.name, ROOT))
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()
