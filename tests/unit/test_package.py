from __future__ import annotations

import ast
import importlib.metadata
from pathlib import Path

import pytest

import agent

ROOT = Path(agent.__file__).parent

# Who must not know whom, directly or through another module of the agent.
CORE = ("agent.core.errors", "agent.core.model", "agent.core.plan", "agent.policy", "agent.core.steps")
FORBIDDEN = {
    **dict.fromkeys(CORE, ("agent.node", "agent.cloud", "agent.report", "agent.cli")),
    "agent.node": ("agent.policy", "agent.core.plan", "agent.cloud", "agent.report", "agent.cli"),
    "agent.report": ("agent.cli",),
}


def find_modules() -> dict[str, str]:
    """Return the source of every module of the agent, by its dotted name."""
    sources = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return sources


def find_imports(source: str) -> set[str]:
    """Return the dotted names that ``source`` imports, wherever in it.

    ``from a import b`` gives both ``a`` and ``a.b``, since b may be a module.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "relative imports are banned"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def lies_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def find_breaches(sources: dict[str, str]) -> list[str]:
    """Return each forbidden import as the chain of modules that leads to it."""
    imports = {module: find_imports(source) for module, source in sources.items()}
    breaches = []
    for layer, forbidden in FORBIDDEN.items():
        for start in sorted(module for module in sources if lies_in(module, layer)):
            chains = {start: start}
            pending = [start]
            while pending:
                module = pending.pop()
                for name in sorted(imports.get(module, set()) - chains.keys()):
                    chains[name] = f"{chains[module]} > {name}"
                    pending.append(name)
            breaches += [
                chain
                for name, chain in chains.items()
                if any(lies_in(name, package) for package in forbidden)
            ]
    return breaches


def test_version_has_one_source() -> None:
    """The installed distribution has the version that the package says."""
    assert importlib.metadata.version("hyperpod-ebs-agent") == agent.__version__


def test_layers_are_kept() -> None:
    """The core knows neither node, cloud nor report, and node knows no policy, not even through others."""
    assert find_breaches(find_modules()) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"agent.core.plan": "import agent.node"},
        {"agent.core.plan": "from agent import node"},
        {"agent.core.plan": "from agent.node.filesystem.mount import mount"},
        {"agent.core.plan": "def look():\n    from agent.node import mounts"},
        {
            "agent.core.plan": "from agent.core.steps import Format",
            "agent.core.steps": "import agent.cloud.aws_worker.main",
        },
        {"agent.core.model": "from agent.words import x", "agent.words": "import agent.report.logs"},
        {"agent.node.filesystem.mount": "from agent.policy import Policy"},
    ],
)
def test_breach_is_found(sources: dict[str, str]) -> None:
    """An import of a forbidden layer is found in whatever form it is written."""
    assert len(find_breaches(sources)) > 0


def test_allowed_imports_pass() -> None:
    """Layers above may import the core and the node, and like-named modules are not confused."""
    sources = {
        "agent.loop.reconcile": "from agent.node import mounts\nfrom agent.core.plan import make_plan",
        "agent.core.plan": "import agent.nodes\nfrom agent.core.model import node",
        "agent.node.filesystem.mount": "from agent.core.model import Mount",
    }
    assert find_breaches(sources) == []


def test_only_the_cloud_imports_boto3() -> None:
    """boto3 is imported in agent.cloud alone, since it may not enter the root daemon."""
    importers = {
        module
        for module, source in find_modules().items()
        for name in find_imports(source)
        if name.partition(".")[0] in {"boto3", "botocore"} and not lies_in(module, "agent.cloud")
    }
    assert importers == set()
