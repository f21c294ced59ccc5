from __future__ import annotations

import re

from tests.kubernetes.programs import PROGRAMS, TOOLS

RELEASE = re.compile(r"^\s*k8s\.io/kubernetes v1\.(\S+)", re.MULTILINE)
REPLACED = re.compile(r"^\s*(\S+) => (\S+) v0\.(\S+)$", re.MULTILINE)


def test_all_programs_are_of_one_release() -> None:
    """Each module pins the same Kubernetes, and of its libraries what was published with that release."""
    modules = {name: (TOOLS / name / "go.mod").read_text(encoding="utf-8") for name in PROGRAMS}
    assert {path.name for path in TOOLS.iterdir()} == set(PROGRAMS)
    (release,) = {found for text in modules.values() for found in RELEASE.findall(text)}
    for text in modules.values():
        replaced = REPLACED.findall(text)
        assert len(replaced) > 20
        assert {(old == new, version) for old, new, version in replaced} == {(True, release)}
