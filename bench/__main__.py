"""``python -m bench [NAME…]``: every measurement there is, or those named, one after the other.

A measurement is a module of this package with a function ``main()`` that prints what it found.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

import bench


def list_measurements() -> dict[str, str]:
    """Return the names of all measurements, with the first line of what each says of itself."""
    found: dict[str, str] = {}
    for info in pkgutil.iter_modules(bench.__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"bench.{info.name}")
        if hasattr(module, "main"):
            found[info.name] = (module.__doc__ or "").partition("\n")[0]
    return found


def main(names: list[str]) -> int:
    """Run the measurements named, or all, and return the exit status."""
    found = list_measurements()
    unknown = [name for name in names if name not in found]
    if unknown:
        print(f"There is no measurement {', '.join(unknown)}; there are {', '.join(found)}.", file=sys.stderr)
        return 2
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # on a node the agent's modules are compiled once
    for name in names or found:
        print(f"== {name}: {found[name]}", flush=True)
        importlib.import_module(f"bench.{name}").main()
        print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
