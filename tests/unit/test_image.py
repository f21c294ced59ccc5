"""The container image: a layout that runtimes read, the same whoever makes it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from installer.exceptions import InstallerError

from scripts.bundle.sbom import describe_package
from scripts.image import application
from scripts.image.layout import BILL, INDEX, Image, pack_layer, write_layout
from tests.unit.test_bundle import make_whole_wheel

NAME = "registry.example/ebs-agent:1.0"


def make_tree(directory: Path, *, umask: int) -> Path:
    (directory / "bin").mkdir(parents=True)
    (directory / "bin/program").write_text("#!/bin/sh\n")
    (directory / "bin/program").chmod(0o4755 & ~umask)
    (directory / "bin/link").symlink_to("program")
    (directory / "text").write_text("words\n")
    (directory / "text").chmod(0o666 & ~umask)
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)
    return directory


def write(archive: Path, tree: Path) -> str:
    layer = pack_layer(tree, tree.rglob("*"), 1)
    images = [Image(each, [layer], f'{{"of": "{each}"}}') for each in ("amd64", "arm64")]
    return write_layout(archive, NAME, images, {"User": "1:1"}, "2020-01-01T00:00:00Z")


def read(layout: tarfile.TarFile, descriptor: dict[str, Any]) -> Any:
    """Return the document that a descriptor refers to, after what it says of it was checked."""
    file = layout.extractfile(f"blobs/{descriptor['digest'].replace(':', '/')}")
    assert file is not None
    content = file.read()
    assert len(content) == descriptor["size"]
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
    return json.loads(content) if descriptor["mediaType"].endswith("json") else content


def test_same_files_same_digest(tmp_path: Path) -> None:
    """Neither times nor the umask nor the place of whoever makes it are in it."""
    one, other = (make_tree(tmp_path / f"{umask}", umask=umask) for umask in (0o022, 0o077))
    os.utime(other / "text", (5, 5))
    digests = {write(tmp_path / f"{tree.name}.tar", tree) for tree in (one, other)}
    assert len(digests) == 1
    assert (tmp_path / "18.tar").read_bytes() == (tmp_path / "63.tar").read_bytes()


def test_layout(tmp_path: Path) -> None:
    """Everything is where its digest says; a runtime finds its processor's image, a scanner its bill."""
    tree = make_tree(tmp_path / "tree", umask=0o077)
    digest = write(tmp_path / "image.tar", tree)
    with tarfile.open(tmp_path / "image.tar") as layout:
        named = layout.extractfile("index.json")
        assert named is not None
        [top] = json.loads(named.read())["manifests"]
        assert (top["digest"], top["mediaType"]) == (digest, INDEX)
        assert top["annotations"] == {
            "io.containerd.image.name": NAME,
            "org.opencontainers.image.ref.name": "1.0",
        }
        manifests = read(layout, top)["manifests"]
        for described, architecture in zip(manifests[:2], ("amd64", "arm64"), strict=True):
            assert described["platform"] == {"os": "linux", "architecture": architecture}
            manifest = read(layout, described)
            config = read(layout, manifest["config"])
            assert (config["architecture"], config["config"]) == (architecture, {"User": "1:1"})
            [layer] = manifest["layers"]
            with tarfile.open(fileobj=io.BytesIO(read(layout, layer))) as packed:
                modes = {each.name: (each.mode, each.uid, each.mtime) for each in packed}
            assert modes == {
                "bin": (0o755, 0, 1),
                "bin/link": (0o755, 0, 1),
                "bin/program": (0o755, 0, 1),
                "text": (0o644, 0, 1),
                "tmp": (0o1777, 0, 1),
            }
        for described, of_image in zip(manifests[2:], manifests[:2], strict=True):
            bill = read(layout, described)
            assert bill["subject"]["digest"] == of_image["digest"]
            assert described["artifactType"] == bill["artifactType"] == BILL
            assert read(layout, bill["layers"][0]) == {"of": of_image["platform"]["architecture"]}


def test_wheels_are_an_environment_of_the_images_python(tmp_path: Path) -> None:
    """Programs name the Python that is there in the image, and not the one that makes it."""
    tree = tmp_path / "tree"
    tree.mkdir()
    application.install_wheels(tree, [make_whole_wheel(tmp_path, "words")])
    place = tree / application.HOME
    assert (place / "bin/run-words").read_text().startswith("#!/opt/ebs-agent/bin/python\n")
    assert (place / "bin/python").readlink() == Path("/usr/bin/python3.13")
    assert "home = /usr/bin\n" in (place / "pyvenv.cfg").read_text()
    assert list(place.rglob("site-packages/words/__init__.py"))


def test_spoilt_wheel_is_refused(tmp_path: Path) -> None:
    """What a wheel's own record does not vouch for is in no image."""
    with pytest.raises(InstallerError, match="words"):
        application.install_wheels(tmp_path, [make_whole_wheel(tmp_path, "words", is_spoilt=True)])


def test_package_of_debian() -> None:
    """A scanner finds a package's faults by its source, version and release."""
    fields = Message()
    for key, value in {
        "Package": "zlib1g",
        "Source": "zlib (1.3)",
        "Version": "1:1.3+x",
        "Architecture": "amd64",
    }.items():
        fields[key] = value
    described = describe_package(fields, "trixie")
    assert described["purl"] == "pkg:deb/debian/zlib1g@1%3A1.3%2Bx?arch=amd64&distro=trixie"
    assert described["properties"] == [{"name": "source", "value": "zlib"}]
