from __future__ import annotations

import ast
import importlib.metadata

import agent
from tests.floors import find_modules


def _find_libraries(source: str) -> set[str]:
    """Return the first name of all that ``source`` imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    return names


def test_version_has_one_source() -> None:
    """The installed distribution has the version that the package says."""
    assert importlib.metadata.version("hyperpod-ebs-agent") == agent.__version__


def test_only_the_worker_imports_boto3() -> None:
    """boto3 is imported in one room alone, since it may not enter the root daemon."""
    importers = {
        module.rpartition(".")[0]
        for module, source in find_modules().items()
        if _find_libraries(source) & {"boto3", "botocore"}
    }
    assert importers == {"agent.cloud.aws_worker"}
