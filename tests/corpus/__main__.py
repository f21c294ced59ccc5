"""Lists the corpus, or makes it: ``python -m tests.corpus [DIRECTORY]``."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.corpus import CASES, find_missing


def main() -> None:
    """Print each case and what it lacks; make images where a directory is given."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    made = 0
    for case in CASES.values():
        missing = find_missing(case.needs)
        made += not missing
        note = f"needs {', '.join(missing)}" if missing else f"{case.size_bytes >> 20} MiB"
        sys.stdout.write(f"{case.name}: {note}\n")
        if directory is not None and not missing:
            case.build(directory / f"{case.name.replace('/', '-').replace(' ', '-')}.img")
    sys.stdout.write(f"{len(CASES)} cases, {made} of them can be made here\n")


if __name__ == "__main__":
    main()
