"""Kubernetes' own programs: which there are, how the modules pinned in ``tools/`` are built, where they lie.

``python -m tests.kubernetes.programs`` builds what is missing: an hour on two cores. Tests never build.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.vm.guest.cache import hash_parts, make_once
from tests.vm.guest.settings import CACHE

TOOLS = Path(__file__).parent / "tools"
FIND_GO = Path(__file__).parents[2] / "scripts/find-go"
CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
PROGRAMS = ("kubelet", *CONTROL_PLANE)
SIDECARS = ("csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter", "snapshot-controller")
"""What makes claims, attachments and snapshots calls of a controller; only tests of one need them."""
AWS_DRIVER = "aws-ebs-csi-driver"
"""AWS's own, which our controller replaces; only the test of that needs it."""
MODULES = {"snapshot-controller": "csi-snapshotter"}
"""The directory in ``tools/`` of a program that has not one of its own."""
PACKAGE = re.compile(r"^(?:tool |\t)(\S+/cmd(?:/\S+)?)$", re.MULTILINE)
RELEASE = r"^\s*(?:require )?{module} (v(\d+)\.(\d+)\.\d+)(?: //.*)?$"
VERSION_PACKAGE = "k8s.io/component-base/version"
SNAPSHOT_TYPES = "github.com/kubernetes-csi/external-snapshotter/client/v8"
"""The module whose files declare snapshots to an API server."""


def find_program(name: str) -> Path | None:
    """Return a program as its module is pinned now, if it was built before."""
    path = _find_built(_get_module(name)) / name
    return path if path.exists() else None


def get_program(name: str) -> Path:
    """Return a program that is known to have been built."""
    path = find_program(name)
    assert path is not None, f"{name} is not built: make build-kubernetes"
    return path


def find_missing(names: Sequence[str] = PROGRAMS) -> list[str]:
    """Return the programs that are not built."""
    return [name for name in names if find_program(name) is None]


def list_snapshot_types() -> list[Path]:
    """Return the files that declare snapshots to an API server, as the built snapshotter is pinned."""
    return sorted((_find_built("csi-snapshotter") / "types").glob("*.storage.k8s.io_*.yaml"))


def list_roles(name: str) -> list[Path]:
    """Return the files in which a built sidecar's release says which rights it needs."""
    found = (_find_built(_get_module(name)) / "deploy").rglob("rbac*.yaml")
    return sorted(path for path in found if path.stem in {"rbac", f"rbac-{name}"})


def build_program(name: str) -> Path:
    """Return a program, built first when its module has changed."""
    module = _get_module(name)
    return make_once(_kind(module), _key(module), lambda work: _build(work, module), keep=1) / name


def _get_module(name: str) -> str:
    return MODULES.get(name, name)


def _kind(module: str) -> str:
    return f"kubernetes-{module}"


def _find_built(module: str) -> Path:
    return CACHE / f"{_kind(module)}-{_key(module)}"


def _key(module: str) -> str:
    """Return the hash of what decides what is built: what the module pins, and the flags."""
    return hash_parts(
        [*((TOOLS / module / file).read_bytes() for file in ("go.mod", "go.sum")), *_build_arguments(module)]
    )


def _list_packages(module: str) -> list[str]:
    """Return the packages of a module's programs."""
    found = PACKAGE.findall((TOOLS / module / "go.mod").read_text(encoding="utf-8"))
    assert found, f"{module}/go.mod names no program as its tool"
    return found


def _find_source_module(module: str) -> str:
    """Return the module that a module's programs are of."""
    return re.split(r"/cmd(?:/|$)", _list_packages(module)[0])[0]


def _build_arguments(module: str) -> list[str]:
    """Return the arguments of ``go``: one compiler at a time, and static programs without symbols."""
    source = _find_source_module(module)
    pattern = RELEASE.format(module=re.escape(source))
    release = re.search(pattern, (TOOLS / module / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    assert release is not None, f"{module}/go.mod names no release of {source}"
    version, major, minor = release.groups()
    of_kubernetes = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    stamps = {f"{VERSION_PACKAGE}.{key}": value for key, value in of_kubernetes.items()}
    if source != "k8s.io/kubernetes":
        stamps = {"main.version": version}
    flags = " ".join(["-s -w", *(f"-X {key}={value}" for key, value in stamps.items())])
    return ["build", "-p", "1", "-trimpath", "-buildvcs=false", f"-ldflags={flags}"]


def _build(work: Path, module: str) -> None:
    """Build a module's programs into a directory, with the least claim to the machine."""
    go = subprocess.run([FIND_GO, "--install"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
    for package in _list_packages(module):
        # AWS's has its only program in ``cmd`` itself.
        output = work / (module if package.endswith("/cmd") else package.rpartition("/")[2])
        argv = ["nice", "-n", "19", go, *_build_arguments(module), "-o", str(output)]
        subprocess.run([*argv, package], cwd=TOOLS / module, env=environment, check=True)
    if module in SIDECARS:
        source = _find_source_module(module)
        _copy_manifests(_find_source(go, module, source, environment) / "deploy/kubernetes", work / "deploy")
    if module == _get_module("snapshot-controller"):
        types = _find_source(go, module, SNAPSHOT_TYPES, environment) / "config/crd"
        _copy_manifests(types, work / "types")


def _find_source(go: str, module: str, source: str, environment: Mapping[str, str]) -> Path:
    """Return the directory of a module that is among those pinned."""
    argv = [go, "mod", "download", "-json", source]
    told = subprocess.run(
        argv, cwd=TOOLS / module, env=environment, check=True, text=True, stdout=subprocess.PIPE
    )
    return Path(json.loads(told.stdout)["Dir"])


def _copy_manifests(source: Path, target: Path) -> None:
    """Copy the manifests of a directory; Go's own copies cannot be removed like other files."""
    for path in source.rglob("*.yaml"):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def main(arguments: list[str]) -> int:
    """Build what is missing and tell where it is; with ``--check`` only tell what is missing."""
    if arguments == ["--check"]:
        # Without a sidecar the tier runs all the same, but for the tests that need it.
        missing = find_missing((*PROGRAMS, *SIDECARS, AWS_DRIVER))
        print(f"not built: {', '.join(missing)}" if missing else "all built")  # noqa: T201 -- a program's output
        return 1 if find_missing() else 0
    for name in (*PROGRAMS, *SIDECARS, AWS_DRIVER):
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
