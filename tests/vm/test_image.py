"""The container image: made twice it is the same, small, and needs few rights. No guest takes part."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from scripts.image.layout import BILL
from tests.vm.guest.tools import run_tool
from tests.vm.images import Layout, make_image

MOST_BYTES = 150_000_000
USER = "65532:65532"
ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONOPTIMIZE": "1", "PYTHONPYCACHEPREFIX": "/nonexistent"}
"""What changes how Python compiles; where it is so already, it is left out."""
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && cd / && shift && exec chroot "$@"'


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    with Layout(make_image(tmp_path_factory.mktemp("image"))) as layout:
        yield layout


@pytest.fixture(scope="module")
def root(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the image's files, unpacked as a runtime does."""
    root = tmp_path_factory.mktemp("root")
    root.chmod(0o755)
    scratch = tmp_path_factory.mktemp("layers") / "layer"
    for layer in read_manifest(layout)["layers"]:
        scratch.write_bytes(layout.read(layer))
        run_tool(["tar", "--extract", "--gzip", "--file", scratch, "--directory", root], timeout_s=60)
    return root


def read_manifest(layout: Layout) -> Any:
    [described] = (each for each in layout.list_manifests() if each["platform"]["architecture"] == "amd64")
    return layout.read_json(described)


def read_config(layout: Layout) -> Any:
    return layout.read_json(read_manifest(layout)["config"])["config"]


def run_in(root: Path, *argv: str) -> str:
    """Run a program of the image as its user, where nothing can be written; return what it printed."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", root, f"--userspec={USER}", root, *argv],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.thorough
def test_made_again_it_is_the_same(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever environment; and beside that for another processor, which no emulator has to run for."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, "" if os.environ.get(name) else value)
    with Layout(make_image(tmp_path, ("x86_64", "aarch64"))) as again:
        digests = {each["digest"] for each in again.list_manifests()}
        assert {each["digest"] for each in layout.list_manifests()} < digests
        for described in again.list_manifests():
            if described["platform"]["architecture"] == "arm64":
                layers = again.read_json(described)["layers"]
                assert sum(layer["size"] for layer in layers) < MOST_BYTES / 2


@pytest.mark.thorough
def test_image_for_nodes(layout: Layout, tmp_path: Path) -> None:
    """It shares Debian's files with the controller's, and brings the bundle and what sends it to the node."""
    with Layout(make_image(tmp_path, kind="node")) as nodes:
        theirs, ours = read_manifest(nodes)["layers"]
        assert theirs["digest"] == read_manifest(layout)["layers"][0]["digest"]
        with tarfile.open(fileobj=io.BytesIO(nodes.read(ours))) as packed:
            names = {Path(name).name for name in packed.getnames()}
        assert {"bundle.tar.gz", "node_pod.py", "on_host.sh"} <= names
        [entry, *_], environment = (read_config(nodes)[key] for key in ("Entrypoint", "Env"))
        assert entry == "/usr/bin/python3.13"
        assert "PATH=/usr/bin" in environment


def test_it_is_small(root: Path) -> None:
    """As it is unpacked on a node; and nothing in it gives a program the rights of its owner."""
    files = [path.lstat() for path in root.rglob("*") if not path.is_dir()]
    assert sum(file.st_size for file in files) <= MOST_BYTES
    assert not any(file.st_mode & 0o6000 for file in files)


def test_it_needs_few_rights(layout: Layout, root: Path) -> None:
    """As a user without a name for it, with nothing to write to, all that the controller imports is there."""
    config = read_config(layout)
    assert config["User"] == USER
    program = f"{config['Env'][0].removeprefix('PATH=').partition(':')[0]}/{config['Entrypoint'][0]}"
    python = str(Path(program).with_name("python"))
    assert run_in(root, program, "--version") == f"{__version__}\n"
    run_in(root, python, "-c", "import agent.controller.service, agent.cloud.aws_worker.main, lightkube")
    compiled = "import agent.cli.app as it, os; print(os.path.exists(it.__cached__))"
    assert run_in(root, python, "-c", compiled) == "True\n"


def test_bill_names_packages_and_wheels(layout: Layout, root: Path) -> None:
    """What dpkg and the wheels say is in the bill, and scanners find dpkg's list in the image."""
    [described] = (each for each in layout.list_manifests() if each.get("artifactType") == BILL)
    bill = layout.read_json(layout.read_json(described)["layers"][0])
    purls = [each["purl"] for each in bill["components"]]
    for expected in ("pkg:deb/debian/libc6@", "pkg:deb/debian/python3.13@", "pkg:pypi/lightkube@"):
        assert [purl for purl in purls if purl.startswith(expected)], expected
    assert f"pkg:pypi/hyperpod-ebs-agent@{__version__}?" in "".join(purls)
    listed = (root / "var/lib/dpkg/status").read_text(encoding="utf-8")
    assert listed.count("\nStatus: install ok installed\n") == sum("pkg:deb/" in purl for purl in purls)
