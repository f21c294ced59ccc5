"""Guests for the tests of this tier: one that most share, and fresh ones for those that break theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.vm.ebs import EbsTarget, remove_ebs_volumes
from tests.vm.guest import Guest, GuestError, GuestOptions
from tests.vm.guest.settings import CACHE, SHARED_GUEST
from tests.vm.guest_agent import UNIT as AGENT
from tests.vm.guest_agent import GuestAgent

# The first test of a run may build the image, every other may boot a guest.
TIMEOUT_S = 600
BUILD_TIMEOUT_S = 1800
LONGEST_FIRST = (
    "test_install.py",
    "test_health.py",
    "test_upgrades.py",
    "test_cloud_story.py",
    "test_main_job.py",
)
"""These take a quarter of an hour each, or more."""


CLEAN_UP = """
for mountpoint in $(findmnt --raw --noheadings --output TARGET | grep -E '^/(data|mnt)(/|$)' | sort -r); do
    umount "$mountpoint" || umount --lazy "$mountpoint"
done
"""


class GuestPool:
    """Boots guests for tests, knows which belong to the running one, and replaces a shared one that broke."""

    def __init__(self) -> None:
        self._shared: Guest | None = None
        self._fresh: list[Guest] = []

    def get_shared(self) -> Guest:
        """Return the shared guest, booted first when there is none that answers."""
        if self._shared is not None and not self._shared.is_alive():
            self._shared.close()
            self._shared = None
        if self._shared is None:
            self._shared = self._find_left_running() or Guest.boot(GuestOptions(has_agent=True))
        return self._shared

    def boot_fresh(self, options: GuestOptions | None = None) -> Guest:
        """Boot a guest that ends with the running test."""
        guest = Guest.boot(options)
        self._fresh.append(guest)
        return guest

    def list_guests(self) -> list[Guest]:
        """Return the guests that may have something to say about the running test."""
        return [*self._fresh, *([self._shared] if self._shared is not None else [])]

    def close_fresh(self) -> None:
        """End the guests of the running test."""
        while self._fresh:
            self._fresh.pop().close()

    def close_shared(self) -> None:
        """End the shared guest, unless somebody else keeps it running."""
        if self._shared is not None:
            (self._shared.detach if self._shared.options.outlives_us else self._shared.close)()
            self._shared = None

    def _find_left_running(self) -> Guest | None:
        if SHARED_GUEST is None:
            return None
        guest = Guest.find(CACHE / "guests" / SHARED_GUEST)
        if guest is None:
            raise GuestError(f"no guest named {SHARED_GUEST} is running")
        if guest.options.has_agent:
            guest.run(["systemctl", "stop", AGENT], check=False)
            guest.refresh_agent()
        clean_up(guest)
        return guest


def clean_up(guest: Guest) -> None:
    """Take every volume and mount away; the agent, if it runs, lets go of them first and runs on."""
    GuestAgent(guest).let_go()
    guest.shell(CLEAN_UP)
    guest.nvmet.remove_all()
    remove_ebs_volumes(guest)
    for volume_id in guest.list_plugged():
        guest.unplug_nvme(volume_id)


POOL = GuestPool()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files stay whole. The longest begin first, so that no process is left alone with one at the end.
    items.sort(
        key=lambda item: LONGEST_FIRST.index(item.path.name) if item.path.name in LONGEST_FIRST else 99
    )
    timeout_s = BUILD_TIMEOUT_S
    for item in items:
        if (
            item.path.is_relative_to(__file__.rpartition("/")[0])
            and item.get_closest_marker("timeout") is None
        ):
            item.add_marker(pytest.mark.timeout(timeout_s))
            timeout_s = TIMEOUT_S


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Show what a guest printed and logged when its test failed."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        for guest in POOL.list_guests():
            report.sections.append(("the guest's console", guest.read_console()))
            # The test's time may end here, which is no reason to lose what it failed with.
            with suppress(pytest.fail.Exception):
                report.sections.append(("the guest's journal", guest.read_journal()))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def shared_guests() -> Iterator[GuestPool]:
    """Own the shared guest for as long as the tests run."""
    yield POOL
    POOL.close_shared()


@pytest.fixture
def lent_guest(shared_guests: GuestPool) -> Iterator[Guest]:
    """Lend the shared guest, and take the test's volumes and mounts away after it; the agent may run on."""
    guest = shared_guests.get_shared()
    yield guest
    if not guest.is_alive():
        return  # the next test boots another
    clean_up(guest)


@pytest.fixture
def guest(lent_guest: Guest) -> Guest:
    """Lend the shared guest without its agent: installed, but stopped."""
    lent_guest.run(["systemctl", "stop", AGENT], check=False)
    return lent_guest


@pytest.fixture
def agent(lent_guest: Guest) -> GuestAgent:
    """Lend the shared guest's agent as it runs on a node that has no volumes and no policy for any."""
    return GuestAgent(lent_guest).warm_up()


@pytest.fixture
def ebs(lent_guest: Guest) -> EbsTarget:
    """Give volumes of the emulated EBS."""
    target = EbsTarget(lent_guest)
    target.start()
    return target


@pytest.fixture
def boot_guest() -> Iterator[Callable[[GuestOptions], Guest]]:
    """Boot guests of a test's own, by its own options."""
    yield POOL.boot_fresh
    POOL.close_fresh()


@pytest.fixture
def fresh_guest(boot_guest: Callable[[GuestOptions], Guest]) -> Guest:
    """Boot a guest for this test alone, to be rebooted, broken and killed; it has the agent installed."""
    return boot_guest(GuestOptions(has_agent=True))
