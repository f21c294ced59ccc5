"""Who may import whom: the floors of the agent and the rooms on each, from the ground up.

``tests/unit/test_floors.py`` holds the code to this table. ``python -m tests.floors`` writes it into
docs/design.md as a drawing.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import agent

PACKAGE = Path(agent.__file__).parent
DESIGN = PACKAGE.parent / "docs" / "design.md"
BEGIN, END = "<!-- floors: python -m tests.floors -->", "<!-- end of floors -->"
WIDTH = 100


@dataclass(frozen=True)
class Floor:
    """Part of the agent with one thing in common.

    ``rooms`` are its packages and modules, each of which may import those named before it; those that are
    named together know nothing of each other. ``below`` are the floors that any of them may import.
    """

    name: str
    rooms: tuple[str, ...]
    below: tuple[str, ...]


FLOORS = (
    Floor("core", ("core",), ()),
    Floor("base", ("__init__", "base"), ("core",)),
    Floor("policy", ("policy.yaml policy.values", "policy", "policy.reading"), ("core", "base")),
    Floor(
        "node",
        (
            "node.kernel node.state",
            "node.isolate",
            "node.device",
            "node.standins node.content",
            "node.filesystem",
            "node.mounts",
            "node.volume_session",
            "node.sampling",
            "node",
        ),
        ("core", "base"),
    ),
    Floor(
        "report",
        (
            "report.board report.agent_counters report.logs report.hook_files report.hook_call",
            "report.api report.health report.serving",
            "report.history report.past report.hooks report.metrics report.mqtt report.http",
            "report.control",
            "report.endpoints report.feed",
            "report.web report.broker report.hook_unit report.hook_main",
            "report",
        ),
        ("core", "base", "policy", "node"),
    ),
    Floor("loop", ("loop",), ("core", "base", "node", "report")),
    Floor(
        "cloud",
        (
            "cloud.aws",
            "cloud.errors",
            "cloud.identity cloud.state cloud.aws_worker",
            "cloud.plan",
            "cloud.view",
            "cloud.snapshots cloud.limits",
            "cloud.tasks",
            "cloud.orders",
            "cloud",
            "cloud.permissions",
        ),
        ("core", "base", "policy", "node", "report", "loop"),
    ),
    Floor(
        "csi",
        (
            "csi.wire csi.calls csi.sockets csi.real_paths",
            "csi.service csi.volumes",
            "csi.policy_volumes",
            "csi",
        ),
        ("core", "base", "policy", "node", "report", "loop", "cloud"),
    ),
    Floor(
        "controller",
        (
            "controller.calls controller.patience controller.name_tags controller.cluster_arns",
            "controller.node_ids controller.pages controller.turns",
            "controller.describing controller.cluster",
            "controller.attaching controller.making",
            "controller.volumes controller.snapshots controller.care controller.service controller.migration",
            "controller",
        ),
        ("core", "base", "policy", "cloud", "csi"),
    ),
    Floor(
        "daemon",
        ("daemon",),
        ("core", "base", "policy", "node", "report", "loop", "cloud", "csi"),
    ),
    Floor(
        "cli",
        ("cli", "__main__"),
        ("core", "base", "policy", "node", "report", "loop", "cloud", "csi", "controller", "daemon"),
    ),
)
"""From the ground up."""


def find_modules() -> dict[str, str]:
    """Return the source of every module of the agent, by its dotted name."""
    sources = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return sources


def find_imports(source: str, modules: Mapping[str, str]) -> set[str]:
    """Return which of ``modules`` a source imports, wherever in it and for whatever use."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "relative imports are banned"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            # What is no module comes out of the package itself.
            names.update(members & modules.keys() or {node.module})
            if members - modules.keys():
                names.add(node.module)
    return names & modules.keys()


def find_room(module: str) -> tuple[Floor, int, str]:
    """Return the floor a module is on, how high on it, and the room it is in; the longest name that fits."""
    name = module.partition(".")[2] or "__init__"
    rooms = (
        (floor, height, room)
        for floor in FLOORS
        for height, together in enumerate(floor.rooms)
        for room in together.split()
    )
    found = [place for place in rooms if name == place[2] or name.startswith(f"{place[2]}.")]
    assert found, f"{module} is in no room"
    return max(found, key=lambda place: len(place[2]))


def find_breaches(sources: Mapping[str, str]) -> Iterator[str]:
    """Yield each import that the table does not allow."""
    for module, source in sources.items():
        floor, height, room = find_room(module)
        for name in sorted(find_imports(source, sources)):
            other, other_height, other_room = find_room(name)
            is_below = (
                other_height < height or other_room == room if other is floor else other.name in floor.below
            )
            if not is_below:
                yield f"{module} imports {name}"


def find_circle(sources: Mapping[str, str]) -> list[str]:
    """Return modules that import each other in turn, the first once more at the end; empty where none do."""
    imports = {module: find_imports(source, sources) - {module} for module, source in sources.items()}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def draw() -> str:
    """Return the table as text, the top floor first, a line for each height of a floor."""
    lines = []
    for floor in reversed(FLOORS):
        may = ", ".join(floor.below) or "nothing"
        lines.append(f"{floor.name:<8} may import {may}")
        lines += [
            f"    {'   '.join(room.split())}"
            for room in reversed(floor.rooms)
            if floor.rooms != (floor.name,)
        ]
    return "\n".join(lines)


def render(document: str) -> str:
    """Return the document with the drawing in its place."""
    before, _, rest = document.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n```\n{draw()}\n```\n\n{END}{after}"


if __name__ == "__main__":
    DESIGN.write_text(render(DESIGN.read_text("utf-8")), "utf-8")
