"""What is put into S3: complete for every Python and processor, and the same whenever it is made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import venv
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import installer
import pytest

from agent.policy.reading import read_policy
from scripts.bundle.__main__ import EDITED, INSIDE, SCRIPT, make_folder
from scripts.bundle.archive import hash_file, pack, write_sums
from scripts.bundle.sbom import describe_wheels
from scripts.bundle.targets import ARCHITECTURES, PYTHONS, Target

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements/run.txt").read_text()


def make_wheel(directory: Path, name: str, metadata: str) -> Path:
    path = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\nVersion: 1.0\n{metadata}\n")
    return path


def make_tree(directory: Path) -> Path:
    directory.mkdir()
    (directory / "script").write_text("#!/bin/sh\n")
    (directory / "script").chmod(0o700)
    (directory / "words").mkdir(mode=0o700)
    (directory / "words/text").write_text("words\n")
    return directory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_line_is_taken_where_it_holds(python: str, architecture: str) -> None:
    """Conditions are weighed for the target and not for the Python that makes the bundle; hashes stay."""
    lines = list(Target(python, architecture).select(LOCK))
    assert all("--hash=sha256:" in line and ";" not in line for line in lines)
    names = {line.partition("==")[0] for line in lines}
    assert {"anyio", "boto3", "pydantic-core", "psutil"} <= names
    assert ("exceptiongroup" in names) == (python == "3.10")


def test_the_newest_platform_is_no_newer_than_the_images() -> None:
    """Wheels run on glibc 2.34, Amazon Linux 2023's; Ubuntu 22.04's is newer."""
    minors = [int(name.split("_")[2]) for name in Target("3.10", "x86_64").platforms if "2014" not in name]
    assert max(minors) <= 34


def test_packing_forgets_who_and_when(tmp_path: Path) -> None:
    """The same files give the same bytes, whatever their times, owners and private modes."""
    first, second = make_tree(tmp_path / "one"), make_tree(tmp_path / "two")
    second = second.rename(tmp_path / "other")
    (tmp_path / "x").mkdir()
    second = second.rename(tmp_path / "x/one")
    os.utime(second / "script", (0, 0))
    (second / "words/text").chmod(0o600)
    for number, tree in enumerate((first, second)):
        pack(tree, tmp_path / f"{number}.tar.gz")
    assert (tmp_path / "0.tar.gz").read_bytes() == (tmp_path / "1.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "0.tar.gz") as packed:
        modes = {member.name: (member.mode, member.uid) for member in packed}
    assert modes == {
        "one": (0o755, 0),
        "one/script": (0o755, 0),
        "one/words": (0o755, 0),
        "one/words/text": (0o644, 0),
    }


def test_sums_are_what_sha256sum_checks(tmp_path: Path) -> None:
    """The checksums inside and beside a bundle are read by coreutils, and notice a changed byte."""
    tree = make_tree(tmp_path / "one")
    write_sums(tree)
    pack(tree, tmp_path / "one.tar.gz")
    check = ["sha256sum", "--check", "--strict", "--quiet"]
    subprocess.run([*check, "SHA256SUMS"], cwd=tree, check=True)
    subprocess.run([*check, "one.tar.gz.sha256"], cwd=tmp_path, check=True)
    (tree / "words/text").write_text("other words\n")
    assert subprocess.run([*check, "SHA256SUMS"], cwd=tree, check=False, capture_output=True).returncode != 0
    assert hash_file(tree / "script") == hashlib.sha256(b"#!/bin/sh\n").hexdigest()


def test_the_bill_names_every_wheel(tmp_path: Path) -> None:
    """The SBOM has name, version, licence, hash and package URL of each wheel, the same each time."""
    classifier = "Classifier: License :: OSI Approved :: MIT License"
    wheels = [
        make_wheel(tmp_path, "one", "License-Expression: Apache-2.0"),
        make_wheel(tmp_path, "Two_x", classifier),
    ]
    text = describe_wheels(wheels, "app", "1.0")
    assert text == describe_wheels(wheels[::-1], "app", "1.0")
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert [(part["name"], part["licenses"][0]["license"]["name"]) for part in bill["components"]] == [
        ("two-x", "MIT License"),
        ("one", "Apache-2.0"),
    ]
    [digest] = bill["components"][1]["hashes"]
    assert digest["content"] == hash_file(wheels[0])
    assert bill["components"][1]["purl"].startswith("pkg:pypi/one@1.0")


def make_whole_wheel(directory: Path, name: str, *, is_spoilt: bool = False) -> Path:
    """Make a wheel with one module and one command, and a record that vouches for them."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": f"def main():\n    print('this is {name}')\n    return 7\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\nrun-{name} = {name}:main\n",
    }
    lines = []
    for path, text in files.items():
        digest = urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text)}")
    if is_spoilt:
        files[f"{name}/__init__.py"] += "# not what the record says\n"
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    wheel = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


@pytest.fixture
def installing(tmp_path: Path) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    """Give a function that installs a wheel of ``tmp_path/wheels`` into the environment ``tmp_path/venv``."""
    venv.create(tmp_path / "venv")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    package = Path(installer.__file__).parent
    with zipfile.ZipFile(wheels / "installer-0-py3-none-any.whl", "w") as archive:
        for path in package.rglob("*.py"):
            archive.write(path, path.relative_to(package.parent))
    script = Path(shutil.copy(ROOT / "lifecycle_scripts/install_wheels.py", tmp_path))

    def install(wheel: Path) -> subprocess.CompletedProcess[str]:
        argv = [str(tmp_path / "venv/bin/python"), "-I", str(script), wheel.name]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    return install


def test_wheels_are_installed_with_their_commands(
    tmp_path: Path, installing: Callable[[Path], subprocess.CompletedProcess[str]]
) -> None:
    """Without pip: the package lands in the venv, known by its metadata, and its command runs."""
    assert installing(make_whole_wheel(tmp_path / "wheels", "one")).returncode == 0
    done = subprocess.run([tmp_path / "venv/bin/run-one"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "this is one\n")
    [mark] = (tmp_path / "venv").rglob("one-1.0.dist-info/INSTALLER")
    assert mark.read_text() == "installer\n"


def test_a_wheel_that_is_not_what_its_record_says_is_not_installed(
    tmp_path: Path, installing: Callable[[Path], subprocess.CompletedProcess[str]]
) -> None:
    """A spoilt file ends the installation before anything of its wheel is in the venv."""
    done = installing(make_whole_wheel(tmp_path / "wheels", "one", is_spoilt=True))
    assert done.returncode != 0
    assert "one/__init__.py" in done.stderr
    assert not list((tmp_path / "venv").rglob("one"))


def test_no_script_is_forgotten() -> None:
    """Every lifecycle script is inside the bundle or uploaded beside it."""
    scripts = {path.name for path in (ROOT / "lifecycle_scripts").iterdir() if path.is_file()}
    assert scripts == {*INSIDE, SCRIPT, *EDITED}


def test_the_policy_that_is_uploaded_touches_nothing() -> None:
    """An operator who edits nothing gets an agent that leaves every volume alone."""
    policy, problems = read_policy((ROOT / "lifecycle_scripts/policy.yaml").read_bytes())
    assert problems == []
    assert policy is not None
    assert policy.volumes == ()


def test_what_an_operator_edited_is_kept(tmp_path: Path) -> None:
    """A rebuilt bundle overwrites no edited file and no hook; what was not edited becomes the new one."""
    source, folder = tmp_path / "source", tmp_path / "dist"
    shutil.copytree(ROOT / "lifecycle_scripts", source / "lifecycle_scripts")
    old = tmp_path / "ebs-agent-1-x86_64.tar.gz"
    for path in (old, tmp_path / f"{old.name}.sha256"):
        path.write_text(path.name)
    assert make_folder(source, [old], folder) == []
    assert (folder / "policy.yaml").read_bytes() == (source / "lifecycle_scripts/policy.yaml").read_bytes()

    (folder / "policy.yaml").write_text("version: 1\nvolumes: [mine]\n")
    (folder / "hooks.d").mkdir()
    (folder / "hooks.d/mine").write_text("#!/bin/sh\n")
    for name in EDITED:
        (source / "lifecycle_scripts" / name).write_text("# a later version's\n")
    [remark] = make_folder(source, [], folder)
    assert "policy.yaml was edited and is kept" in remark
    assert (folder / "policy.yaml").read_text() == "version: 1\nvolumes: [mine]\n"
    assert (folder / "policy.yaml.example").read_text() == "# a later version's\n"
    assert (folder / "ebs-agent.conf").read_text() == "# a later version's\n"
    assert (folder / "hooks.d/mine").exists()
    assert not (folder / old.name).exists()
