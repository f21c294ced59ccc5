"""``python -m scripts.bundle``: bundles for each processor and the folder to upload, into ``dist/``."""

from __future__ import annotations

import argparse
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from packaging.utils import parse_wheel_filename

from agent.cli.show.progress import telling
from scripts.bundle import archive, sbom, wheels
from scripts.bundle.targets import ARCHITECTURES, PYTHONS, Target

REPOSITORY = Path(__file__).parents[2]
NAME = "hyperpod-ebs-agent"
INSTALLER = "installer"
"""What installs wheels on the node; it lies beside them and is not installed itself."""
FOLDER = "lifecycle_scripts"

INSIDE = ("install.sh", "install_wheels.py", "uninstall.sh", "rollback.sh", "common.sh")
"""Scripts that a bundle holds, so that what installs a version is of that version."""
SCRIPT = "on_create.sh"
EDITED = ("ebs-agent.conf", "policy.yaml")
"""What lies in S3 beside the bundles and is the operator's to edit."""


def main() -> int:
    """Make what the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bundle", description=__doc__)
    parser.add_argument("--source", type=Path, default=REPOSITORY, help="the tree to make it from")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "dist")
    parser.add_argument("--cache", type=Path, default=REPOSITORY / "build" / "wheels")
    parser.add_argument("--architecture", action="append", choices=ARCHITECTURES, help="all when not given")
    parser.add_argument("--python", action="append", choices=PYTHONS, help="all when not given")
    arguments = parser.parse_args()
    architectures = tuple(arguments.architecture or ARCHITECTURES)
    pythons = tuple(arguments.python or PYTHONS)

    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wheel = wheels.build(arguments.source, Path(scratch))
        bundles = []
        with telling("Making bundles", to_stderr=True) as work:
            begun = itertools.count()

            def tell(target: Target) -> None:
                text = f"Gathering wheels of Python {target.python} for {target.architecture}."
                work.tell(text, 100 * next(begun) / (len(architectures) * len(pythons)))

            for architecture in architectures:
                targets = [Target(python, architecture) for python in pythons]
                bundles.append(
                    make_bundle(arguments.source, targets, wheel, arguments.cache, arguments.output, tell)
                )
    folder = arguments.output / FOLDER
    remarks = make_folder(arguments.source, bundles, folder)
    for line in (*bundles, folder, *remarks):
        sys.stdout.write(f"{line}\n")
    return 0


def make_bundle(
    source: Path,
    targets: list[Target],
    wheel: Path,
    cache: Path,
    output: Path,
    tell: Callable[[Target], None] = lambda _: None,
) -> Path:
    """Make the bundle of one processor from the agent's wheel, telling of each target; return its path."""
    version = str(parse_wheel_filename(wheel.name)[1])
    architecture = targets[0].architecture
    lock = (source / "requirements" / "run.txt").read_text(encoding="utf-8")
    tools = (source / "requirements" / "build.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / f"ebs-agent-{version}-{architecture}"
        house = root / "wheels"
        house.mkdir(parents=True)
        for target in targets:
            tell(target)
            shelf = cache / f"{architecture}-{target.python}"
            installer = (each for each in target.select(tools) if each.startswith(f"{INSTALLER}=="))
            wheels.fill_shelf(shelf, target, [*target.select(lock), *installer])
            found = [*sorted(shelf.glob("*.whl")), wheel]
            for path in found:
                shutil.copyfile(path, house / path.name)
            names = "".join(f"{path.name}\n" for path in found if not path.name.startswith(f"{INSTALLER}-"))
            (house / f"{target.python}.txt").write_text(names, encoding="utf-8")
        own = f"{NAME}=={version} --hash=sha256:{archive.hash_file(wheel)}\n"
        (root / "requirements.txt").write_text(lock + own, encoding="utf-8")
        (root / "VERSION").write_text(f"{version}\n", encoding="utf-8")
        bill = sbom.describe_wheels(list(house.glob("*.whl")), NAME, version)
        (root / "sbom.cdx.json").write_text(bill, encoding="utf-8")
        add_files(source, root)
        archive.write_sums(root)
        bundle = output / f"{root.name}.tar.gz"
        archive.pack(root, bundle)
    return bundle


def add_files(source: Path, root: Path) -> None:
    """Add what is no wheel: scripts, units, example hooks, documents."""
    for name in INSIDE:
        shutil.copy(source / FOLDER / name, root / name)
    shutil.copytree(source / FOLDER / "hooks.d", root / "hooks.d")
    shutil.copytree(source / "systemd", root / "systemd")
    shutil.copytree(source / "docs", root / "docs")
    shutil.copy(source / "LICENSE", root / "LICENSE")


def make_folder(source: Path, bundles: list[Path], folder: Path) -> list[str]:
    """Make the folder that is uploaded as it is, and return what is to be said of it.

    What is there already and was not made here stays: an edited file, hooks. What was made here is made anew.
    """
    folder.mkdir(exist_ok=True)
    for old in folder.glob("ebs-agent-*.tar.gz*"):
        old.unlink()
    examples = folder / "hooks.examples"
    shutil.rmtree(examples, ignore_errors=True)
    # Beside hooks.d, which on_create.sh would install: they act only for those who put them there.
    shutil.copytree(source / FOLDER / "hooks.d", examples)
    shutil.copy(source / FOLDER / SCRIPT, folder / SCRIPT)
    kept = [name for name in EDITED if not put_editable(source / FOLDER / name, folder / name)]
    for bundle in bundles:
        shutil.copyfile(bundle, folder / bundle.name)
        shutil.copyfile(f"{bundle}.sha256", folder / f"{bundle.name}.sha256")
    return [f"{folder / name} was edited and is kept; the new one is {name}.example" for name in kept]


def put_editable(shipped: Path, path: Path) -> bool:
    """Put a file that may be edited, unless it was, and its ``.example``; tell whether it was put."""
    example = path.with_name(f"{path.name}.example")
    is_untouched = not path.exists() or (example.exists() and path.read_bytes() == example.read_bytes())
    shutil.copy(shipped, example)
    if is_untouched or path.read_bytes() == shipped.read_bytes():
        shutil.copy(shipped, path)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
