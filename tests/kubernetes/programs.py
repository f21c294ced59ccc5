"""Kubernetes' own programs: which there are, how the modules pinned in ``tools/`` are built, where they lie.

``python -m tests.kubernetes.programs`` builds what is missing: half an hour on two cores. Tests never build.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.vm.guest.cache import hash_parts, make_once
from tests.vm.guest.settings import CACHE

TOOLS = Path(__file__).parent / "tools"
FIND_GO = Path(__file__).parents[2] / "scripts/find-go"
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
PROGRAMS = ("kubelet", *CONTROL_PLANE)
RELEASE = re.compile(r"^\s*(?:require )?k8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)(?: //.*)?$", re.MULTILINE)
VERSION_PACKAGE = "k8s.io/component-base/version"


def find_program(name: str) -> Path | None:
    """Return a program as its module is pinned now, if it was built before."""
    path = CACHE / f"{_kind(name)}-{_key(name)}" / name
    return path if path.exists() else None


def get_program(name: str) -> Path:
    """Return a program that is known to have been built."""
    path = find_program(name)
    assert path is not None, f"{name} is not built: make build-kubernetes"
    return path


def find_missing() -> list[str]:
    """Return the programs that are not built."""
    return [name for name in PROGRAMS if find_program(name) is None]


def build_program(name: str) -> Path:
    """Return a program, built first when its module has changed."""
    return make_once(_kind(name), _key(name), lambda work: _build(work, name), keep=1) / name


def _kind(name: str) -> str:
    return f"kubernetes-{name}"


def _key(name: str) -> str:
    """Return the hash of what decides what is built: what the module pins, and the flags."""
    module = TOOLS / name
    return hash_parts(
        [*((module / file).read_bytes() for file in ("go.mod", "go.sum")), *_build_arguments(name)]
    )


def _build_arguments(name: str) -> list[str]:
    """Return the arguments of ``go``: one compiler at a time, and a static program without symbols."""
    release = RELEASE.search((TOOLS / name / "go.mod").read_text(encoding="utf-8"))
    assert release is not None, f"{name}/go.mod names no release of k8s.io/kubernetes"
    version, major, minor = release.groups()
    stamps = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    flags = " ".join(["-s -w", *(f"-X {VERSION_PACKAGE}.{key}={value}" for key, value in stamps.items())])
    return ["build", "-p", "1", "-trimpath", "-buildvcs=false", f"-ldflags={flags}"]


def _build(work: Path, name: str) -> None:
    """Build a program into a directory, with the least claim to the machine."""
    go = subprocess.run([FIND_GO, "--install"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    argv = ["nice", "-n", "19", go, *_build_arguments(name), "-o", str(work / name)]
    subprocess.run([*argv, f"k8s.io/kubernetes/cmd/{name}"], cwd=TOOLS / name, env=environment, check=True)


def main(arguments: list[str]) -> int:
    """Build what is missing and tell where it is; with ``--check`` only tell what is missing."""
    if arguments == ["--check"]:
        missing = find_missing()
        print(f"not built: {', '.join(missing)}" if missing else "all built")  # noqa: T201 -- a program's output
        return 1 if missing else 0
    for name in PROGRAMS:
        started = time.monotonic()
        try:
            path = build_program(name)
        except subprocess.CalledProcessError as error:
            print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
            return 1
        print(f"{path} ({time.monotonic() - started:.0f} s)", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
