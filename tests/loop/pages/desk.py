"""The reader's own machine: a clone, the AWS command line, and a shell to paste blocks into."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from agent import __version__
from tests.fakes.bundle import REPOSITORY, make_folder
from tests.loop.pages.fences import Block, find_difference
from tests.loop.pages.node import BIN, SYSTEM_PATH, make_agent, write_program
from tests.loop.pages.shells import Shell


def check_printed(block: Block, printed: str) -> None:
    """Compare what a block prints with what its page shows."""
    difference = find_difference(block.expected, printed)
    assert difference is None, f"line {block.line}: {difference}\nIt printed all of this:\n{printed}"


class Desk:
    """The machine, below ``base``; ``programs`` are scripts that it has beside the system's, by name."""

    def __init__(self, base: Path, aws_endpoint: str, programs: Mapping[str, str] | None = None) -> None:
        self.clone = base / "clone"
        self._make_clone()
        own = base / "own"
        own.mkdir()
        write_program(own / "aws", f'exec env AWS_ENDPOINT_URL={aws_endpoint} {BIN}/aws "$@"')
        for name, text in (programs or {}).items():
            write_program(own / name, text)
        environment = {
            "PATH": f"{own}:{SYSTEM_PATH}",
            "HOME": str(base),
            "LC_ALL": "C.UTF-8",
            "AWS_ACCESS_KEY_ID": "AKIAOFTHEREADER00000",
            "AWS_SECRET_ACCESS_KEY": "emulated",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._shell = Shell((), environment, self.clone, base / "pasted")

    def _make_clone(self) -> None:
        """Make what `make bundle` leaves in a clone, with the agent of this tree in the place of wheels."""
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        ).stdout.split(b"\0")
        self.clone.mkdir()
        for top in {name.split(b"/")[0].decode() for name in tracked if name}:
            (self.clone / top).symlink_to(REPOSITORY / top)
        (self.clone / ".venv").symlink_to(BIN.parent)
        folder = self.clone / "dist/lifecycle_scripts"
        folder.parent.mkdir()
        make_folder(folder, __version__, policy="version: 1\nvolumes: []\n", agent=make_agent())
        for bundle in folder.glob("*.tar.gz"):
            with bundle.with_name(f"{bundle.name}.sha256").open("w") as file:
                subprocess.run(["sha256sum", bundle.name], cwd=folder, check=True, stdout=file)

    def paste(self, block: Block) -> None:
        check_printed(block, self._shell.paste(block.text))

    def end(self) -> None:
        self._shell.end()
