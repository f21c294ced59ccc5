"""Gets the wheels: the locked ones from the package index by their hashes, the agent's own from the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from scripts.bundle.archive import EPOCH_S
from scripts.bundle.targets import Target


def download(target: Target, lines: Sequence[str], directory: Path) -> None:
    """Download the wheels of these lines of a lock for ``target`` into ``directory``; others there stay.

    Raises CalledProcessError where one does not exist for the target or has another hash than the lock says.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(lines) + "\n")
        requirements.flush()
        platforms = [word for platform in target.platforms for word in ("--platform", platform)]
        _run_pip(
            *("download", "--quiet", "--retries", "5"),
            *("--no-deps", "--require-hashes", "--only-binary", ":all:"),
            *("--python-version", target.python, "--implementation", "cp", *platforms),
            *("--dest", str(directory), "--requirement", requirements.name),
        )


def fill_shelf(shelf: Path, target: Target, lines: Sequence[str]) -> None:
    """Have ``shelf`` hold exactly the wheels of these lines of a lock for ``target``, downloaded once."""
    stamp = shelf / "lock.txt"
    wanted = "\n".join([*lines, *target.platforms])
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(shelf, ignore_errors=True)
    shelf.mkdir(parents=True)
    download(target, lines, shelf)
    stamp.write_text(wanted, encoding="utf-8")


def build(repository: Path, directory: Path) -> Path:
    """Build the agent's wheel and return its path; the same tree gives the same bytes."""
    # A private umask of whoever builds must not decide what is in the archive.
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    _run([*build, "--outdir", str(directory), str(repository)], {"SOURCE_DATE_EPOCH": str(EPOCH_S)})
    [wheel] = directory.glob("hyperpod_ebs_agent-*.whl")
    return wheel


def _run_pip(*arguments: str) -> None:
    _run([sys.executable, "-m", "pip", *arguments], {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})


def _run(argv: Sequence[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        argv, check=False, env={**os.environ, **environment}, capture_output=True, text=True, umask=0o022
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()
