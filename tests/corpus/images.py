"""Images that others bring: every file in the directory that ``EBS_AGENT_IMAGES`` names, also as ``.xz``."""

from __future__ import annotations

import lzma
import os
from pathlib import Path

from tests.corpus.case import MIB

VARIABLE = "EBS_AGENT_IMAGES"


def list_images() -> list[Path]:
    """Return the images there are; none where the variable is not set."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        return []
    return sorted(path for path in Path(directory).iterdir() if path.is_file())


def unpack(source: Path, image: Path) -> None:
    """Copy an image, unpacking ``.xz``, with holes for zeros and a size in whole sectors."""
    with (
        source.open("rb") as stored,
        lzma.open(stored) if source.suffix == ".xz" else stored as packed,
        image.open("wb") as file,
    ):
        while chunk := packed.read(MIB):
            if chunk.strip(b"\0"):
                file.write(chunk)
            else:
                file.seek(len(chunk), os.SEEK_CUR)
        file.truncate(-(-file.tell() // 512) * 512)
