"""What every test starts from: its tier, its environment and Hypothesis' settings."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.leftovers import find_runs, sweep
from tests.summary import SummaryPlugin
from tests.tiers import TIERS, TierPlugin, parse_tiers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# Deadlines measure the machine, not the code. CI tries the same examples every time, so its failures recur;
# runs by hand try others each time, and fewer.
hypothesis.settings.register_profile(
    "dev", deadline=None, max_examples=30, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "ci",
    parent=hypothesis.settings.get_profile("dev"),
    max_examples=100,
    derandomize=True,
    database=None,
    print_blob=True,
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-tiers",
        type=parse_tiers,
        default=(),
        metavar="TIER,…",
        help="fail when no test of one of these tiers ran",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # So a shell starts what it leaves in the background, and all that this starts would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for tier in TIERS:
        config.addinivalue_line("markers", f"{tier}: set by the test's directory")
    config.addinivalue_line("markers", "thorough: takes half a minute or more; CI runs it, or CI=1 by hand")
    config.addinivalue_line("markers", "nightly: takes minutes; EBS_AGENT_NIGHTLY=1 runs it")
    config.addinivalue_line("markers", "needs(program, …): skip where one of the programs is absent")
    config.pluginmanager.register(TierPlugin(config.getoption("--require-tiers")), "tiers")
    config.pluginmanager.register(SummaryPlugin(), "summary")
    if os.geteuid() == 0 and not hasattr(config, "workerinput"):
        sweep(find_runs())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep ``make test`` within minutes on a developer's machine, and CI within its hour and a half."""
    reasons = {}
    if not os.environ.get("CI"):
        reasons["thorough"] = "thorough: CI runs it, or CI=1 by hand"
    if os.environ.get("EBS_AGENT_NIGHTLY") != "1":
        reasons["nightly"] = "nightly: EBS_AGENT_NIGHTLY=1 runs it"
    for item in items:
        for name, reason in reasons.items():
            if item.get_closest_marker(name) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what is collected and imported for it, neither meanwhile nor afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _isolated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep every test away from the machine's own agent and from AWS."""
    nowhere = tmp_path_factory.mktemp("nowhere")
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith(("AWS_", "EBS_AGENT_"))]:
            environment.delenv(name)
        environment.setenv("EBS_AGENT_ROOT", str(nowhere))
        environment.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
        environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield
