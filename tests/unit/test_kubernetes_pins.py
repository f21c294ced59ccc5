from __future__ import annotations

import re

from tests.kubernetes.programs import AWS_DRIVER, MODULES, PROGRAMS, SIDECARS, TOOLS

RELEASE = re.compile(r"^\s*k8s\.io/kubernetes v1\.(\S+)", re.MULTILINE)
REPLACED = re.compile(r"^\s*(\S+) => (\S+) v0\.(\S+)$", re.MULTILINE)
TOOL = re.compile(r"(?<=/cmd/)\S+$|[^/\s]+(?=/cmd$)", re.MULTILINE)


def read_module(name: str) -> str:
    return (TOOLS / MODULES.get(name, name) / "go.mod").read_text(encoding="utf-8")


def test_all_programs_are_of_one_release() -> None:
    """Each module pins the same Kubernetes, and of its libraries what was published with that release."""
    modules = {name: read_module(name) for name in PROGRAMS}
    (release,) = {found for text in modules.values() for found in RELEASE.findall(text)}
    for text in modules.values():
        replaced = REPLACED.findall(text)
        assert len(replaced) > 20
        assert {(old == new, version) for old, new, version in replaced} == {(True, release)}


def test_each_program_has_its_module_and_each_module_its_programs() -> None:
    """What is built is what ``tools/`` pins, and nothing is pinned that is not built."""
    programs = (*PROGRAMS, *SIDECARS, AWS_DRIVER)
    assert {path.name for path in TOOLS.iterdir()} == {MODULES.get(name, name) for name in programs}
    assert sorted(
        name for path in TOOLS.iterdir() for name in TOOL.findall(read_module(path.name))
    ) == sorted(programs)
