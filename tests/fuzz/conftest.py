"""The fuzz tier's means: its share of the time, the seeds, and what every target has to hold.

Each test is one target. It first takes its seeds (``seeds/TARGET/*``, each found once and kept), then inputs
made by Hypothesis, until its share of ``FUZZ_SECONDS`` is used up. What fails is shrunk and written below
``build/fuzz``: put into the target's seeds it is tried by every run from then on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import resource
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest
from hypothesis import strategies as st

from agent.core.errors import AgentError
from tests.summary import SUMMARY

T = TypeVar("T")

SEEDS = Path(__file__).parent / "seeds"
FAILURES = Path(__file__).parents[2] / "build/fuzz"
DEFAULT_SECONDS = 60.0
LONGEST_CPU_S = 5.0
"""For one input, on a machine that is not idle."""
MEMORY_BYTES = 1 << 30
"""What all inputs of one target may take on top of what the process has."""
_BATCH = 100
_SHRINKING_S = 600
"""How much longer than its share a target may take: what failed is made as small as it can be."""
_UNWRITTEN = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of what ends a line, moves a cursor, or is half a character."""
_TEXT_LIMIT = 4000

_shares = pytest.StashKey[float]()

Check = Callable[[bytes], object]
Fuzz = Callable[[Check, st.SearchStrategy[bytes]], None]


@pytest.hookimpl(trylast=True)  # after -k has taken its choice
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Divide the time between the targets that were chosen; several workers have several times as much."""
    targets = [item for item in items if "fuzz" in getattr(item, "fixturenames", ())]
    seconds = float(os.environ.get("FUZZ_SECONDS") or DEFAULT_SECONDS)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = config.stash[_shares] = seconds * workers / max(1, len(targets))
    for target in targets:
        target.add_marker(pytest.mark.timeout(share + _SHRINKING_S))


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Have an input that takes too much memory fail with MemoryError, instead of the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the log out of it: a target may refuse thousands of inputs a second."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory whose path leaves room for a socket's: 107 bytes are all it may have."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """Return what runs one target: ``fuzz(check, inputs)``."""
    target = request.node.name.removeprefix("test_").partition("[")[0]
    end_s = time.monotonic() + request.config.stash[_shares]

    def run(check: Check, inputs: st.SearchStrategy[bytes]) -> None:
        for seed in sorted((SEEDS / target).glob("*")):
            _try_input(check, seed.read_bytes())
        number = 0
        while number == 0 or time.monotonic() < end_s:
            _run_batch(check, inputs, target, number)
            number += 1

    return run


def _run_batch(check: Check, inputs: st.SearchStrategy[bytes], target: str, number: int) -> None:
    """Try the next inputs: in CI the same in every run, as far as the time reaches; elsewhere others."""
    last = b""

    def try_one(content: bytes) -> None:
        nonlocal last
        last = content
        _try_input(check, content)

    attempt = hypothesis.given(inputs)(try_one)
    attempt = hypothesis.settings(
        max_examples=_BATCH,
        database=None,
        derandomize=False,
        print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )(attempt)
    seed = f"{target} {number}" if os.environ.get("CI") else f"{target} {number} {time.time_ns()}"
    try:
        hypothesis.seed(seed)(attempt)()
    except BaseException:
        FAILURES.mkdir(parents=True, exist_ok=True)
        kept = FAILURES / f"{target}-{hashlib.sha256(last).hexdigest()[:12]}"
        kept.write_bytes(last)
        raise


def _try_input(check: Check, content: bytes) -> None:
    """Hold the property: a value or an AgentError that can be shown, in bounded time, and nothing else."""
    SUMMARY["inputs tried by fuzzing"] += 1
    began_s = time.thread_time()
    check_answer(lambda: check(content))
    took_s = time.thread_time() - began_s
    assert took_s < LONGEST_CPU_S, f"one input of {len(content)} bytes took {took_s:.1f} s"


def check_answer(ask: Callable[[], T]) -> T | None:
    """Return what is answered, None where that is an error in proper words; anything else is a failure."""
    try:
        return ask()
    except AgentError as raised:
        error = raised
    check_error(error)  # outside, since a failure is told with the error it comes from, whatever that says
    return None


def check_error(error: AgentError) -> None:
    """An error says in words what is wrong, and the words can be written wherever errors are shown."""
    assert error.message.strip(), "an error without a message"
    for text in (error.message, error.hint or ""):
        assert len(text) <= _TEXT_LIMIT, f"{len(text)} characters of error"
        text.encode("utf-8")
        strange = [character for character in text if unicodedata.category(character) in _UNWRITTEN]
        assert not strange, f"{strange} in {text[:200]!a}"
