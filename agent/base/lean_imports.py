"""Libraries without those parts that the agent has no use for, where these are most of what a library takes.

Each of these holds while a library is imported and leaves no trace: whoever imports the part later has it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec, module_from_spec
from types import ModuleType


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Have a module look as if it were not installed."""
    with _in_place(name, None):  # the import system's own sign for it
        yield


@contextmanager
def replaced(name: str, **members: object) -> Iterator[None]:
    """Have a module stand for another that has no more than these members; one that is there stays."""
    if name in sys.modules:
        yield
        return
    module = ModuleType(name)
    vars(module).update(members)
    with _in_place(name, module):
        yield


@contextmanager
def bare(name: str) -> Iterator[None]:
    """Have a package that runs none of its own code, so that parts of it are imported by themselves.

    One that is there already stays. Raises ImportError where it is not installed.
    """
    if name in sys.modules:
        yield
        return
    spec = find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    with _in_place(name, module_from_spec(spec)):
        yield


@contextmanager
def hashing_by_python() -> Iterator[None]:
    """Have ``hashlib`` take Python's own code, where it has such, in the place of OpenSSL's.

    That is 2 MB for some digests of a page each. Fedora's Python, and those built like it, have none of their
    own (``--with-builtin-hashlib-hashes``).
    """
    # The module of SHA-256 before Python 3.12, and since.
    has_own = find_spec("_sha256") is not None or find_spec("_sha2") is not None
    with hidden("_hashlib") if has_own else nullcontext():
        yield


@contextmanager
def _in_place(name: str, module: ModuleType | None) -> Iterator[None]:
    found = sys.modules.get(name)
    sys.modules[name] = module  # type: ignore[assignment]  # None is not in its type
    try:
        yield
    finally:
        del sys.modules[name]
        if found is not None:
            sys.modules[name] = found
