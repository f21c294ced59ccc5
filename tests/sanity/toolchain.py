"""Go, and what the suite is built of: whether this machine has them or can get them, and the building."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.tiers import loop_unavailable_reason

SUITE = Path(__file__).parent
_FIND_GO = SUITE.parents[1] / "scripts/find-go"
_FETCH_S = 120
_BUILD_S = 600


def sanity_unavailable_reason() -> str | None:
    """Return why the suite cannot be built and run here, in one sentence, or None; fetches its modules."""
    if reason := loop_unavailable_reason():
        return reason
    found = subprocess.run([_FIND_GO], check=False, capture_output=True, text=True)
    if found.returncode != 0:
        return found.stderr.strip()
    try:
        # All that the suite is built of: at once where it is in Go's cache, or else through the module proxy.
        listed = _run_go("list", "-deps", "-test", ".", timeout_s=_FETCH_S)
    except subprocess.TimeoutExpired:
        return f"needs Go's module proxy, which did not answer within {_FETCH_S} s"
    if listed.returncode != 0:
        return f"needs Go's module proxy: {(listed.stderr.strip() or 'no reason given').splitlines()[-1]}"
    return None


def build_suite(directory: Path) -> Path:
    """Return the suite's program, built in ``directory``: the first time in minutes, then in seconds."""
    program = directory / "sanity.test"
    built = _run_go("test", "-c", "-o", str(program), ".", timeout_s=_BUILD_S)
    assert built.returncode == 0, built.stderr
    return program


def check_sources() -> str:
    """Return what gofmt and go vet find fault with in the suite; empty where that is nothing."""
    gofmt = _find_go().with_name("gofmt")
    unformatted = subprocess.run([gofmt, "-l", "."], check=True, cwd=SUITE, capture_output=True, text=True)
    vetted = _run_go("vet", ".", timeout_s=_BUILD_S)
    return unformatted.stdout + (vetted.stderr if vetted.returncode != 0 else "")


def _find_go() -> Path:
    return Path(subprocess.run([_FIND_GO], check=True, capture_output=True, text=True).stdout.strip())


def _run_go(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    return subprocess.run(
        [_find_go(), *arguments],
        check=False,
        cwd=SUITE,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
