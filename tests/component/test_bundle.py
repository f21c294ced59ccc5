"""The whole bundle, made from copies of this tree as two people would, without any wheel from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.bundle import wheels
from scripts.bundle.__main__ import make_bundle
from scripts.bundle.archive import hash_file
from scripts.bundle.targets import Target
from tests.vm.bundles import SOURCES

ROOT = Path(__file__).parents[2]
TARGET = Target("3.11", "x86_64")


def copy_tree(place: Path, *, mode: int, time_s: int) -> Path:
    """Copy what a bundle is made from, as a clone with its own modes and times has it."""
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, place / name)
    for path in place.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & mode)
        os.utime(path, (time_s, time_s))
    return place


def make(tree: Path, scratch: Path) -> Path:
    """Make a bundle of the agent's own wheel and of no other."""
    wheel = wheels.build(tree, scratch / "wheel")
    return make_bundle(tree, [TARGET], wheel, scratch / "cache", scratch)


def test_two_builds_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes it, wherever and when: the bundle is the same, and so is its checksum, which holds."""
    monkeypatch.setattr(wheels, "download", lambda _target, _lines, _directory: None)
    bundles = []
    for name, mode, time_s in (("one", 0o755, 1_600_000_000), ("another/place", 0o700, 1_700_000_000)):
        tree = copy_tree(tmp_path / name / "tree", mode=mode, time_s=time_s)
        bundles.append(make(tree, tmp_path / name))
    first, second = bundles
    assert hash_file(first) == hash_file(second)
    for bundle in bundles:
        check = ["sha256sum", "--check", "--strict", "--quiet", f"{bundle.name}.sha256"]
        subprocess.run(check, cwd=bundle.parent, check=True)
    with_wheel = subprocess.run(["tar", "-tzf", first], capture_output=True, text=True, check=True).stdout
    assert "wheels/hyperpod_ebs_agent-" in with_wheel
