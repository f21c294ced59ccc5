"""The sockets that kubelet finds the agent at: when they come, where, and how long they stay."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import pytest
from grpclib.client import Channel

from agent.base.off_loop import do_here
from agent.core.errors import AgentError, RefusedError
from agent.csi.service.identity import Plugin
from agent.csi.service.node import NodeService
from agent.csi.service.plugin import NodePlugin
from agent.csi.service.registration import Registration
from agent.csi.sockets.bind import bind_socket
from agent.csi.sockets.fd_store import FdStore
from agent.csi.sockets.keep_sockets import KubeletSockets, Listeners, clear_sockets, drop_stored
from agent.csi.sockets.kubelet_root import Places, read_inode
from agent.csi.wire import csi_pb2, registration_pb2
from agent.csi.wire.csi_grpc import IdentityStub
from agent.csi.wire.registration_grpc import RegistrationStub
from agent.policy.values.csi_fields import POLICY_DRIVER
from tests.component.csi.conftest import DRIVER, OURSELVES, ScriptedVolumes
from tests.csi import fd_store
from tests.waiting import until

pytestmark = pytest.mark.anyio

WITHOUT_STORE: dict[str, str] = {}
_OUT_OF_THE_WAY = 300


@dataclass
class Kept:
    """Sockets that are kept, and what became of them."""

    sockets: KubeletSockets
    opened: list[Listeners] = field(default_factory=list)
    told: list[AgentError | None] = field(default_factory=list)

    async def serve(self, listeners: Listeners) -> None:
        self.opened.append(listeners)
        await anyio.sleep_forever()


@asynccontextmanager
async def keeping(
    root: Path,
    store: FdStore | None = None,
    driver: str = DRIVER,
    is_current: Callable[[socket.socket], bool] = lambda _: True,
) -> AsyncIterator[Kept]:
    """Keep the sockets of a driver below a root, until the end of the block."""
    told: list[AgentError | None] = []
    store = store or FdStore(WITHOUT_STORE)
    sockets = KubeletSockets(str(root), driver, store, do_here, told.append, is_current=is_current)
    kept = Kept(sockets, told=told)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kept.sockets.run, kept.serve)
        yield kept
        tasks.cancel_scope.cancel()
    for listeners in kept.opened:  # as the process's end does
        listeners.endpoint.close()
        listeners.registration.close()


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a root of kubelet's, before kubelet has run."""
    return tmp_path_factory.mktemp("k")


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[fd_store.FdStore]:
    """A store of descriptors."""
    store = fd_store.FdStore(tmp_path / "notify")
    yield store
    store.close()


def start_kubelet(root: Path) -> Places:
    (root / "plugins_registry").mkdir(parents=True)
    return Places(str(root), DRIVER)


def list_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def hand_back(systemd: fd_store.FdStore) -> FdStore:
    """Return the store as the next agent has it."""
    for number, fd in enumerate(systemd.stored.values(), start=_OUT_OF_THE_WAY):
        os.dup2(fd, number)
    environment = {
        "NOTIFY_SOCKET": str(systemd.path),
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(systemd.stored)),
        "LISTEN_FDNAMES": ":".join(systemd.stored),
    }
    return FdStore(environment, _OUT_OF_THE_WAY)


async def test_nothing_is_there_before_kubelet(root: Path) -> None:
    """Whoever moves kubelet's root finds nothing of the agent's in it; it comes once kubelet has run."""
    async with keeping(root) as kept:
        await anyio.sleep(0.3)
        assert list_names(root) == []
        places = start_kubelet(root)
        await until(lambda: kept.opened)
        for path in (places.endpoint, places.registration):
            mode = path.lstat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
        assert list_names(places.registration.parent) == [places.registration.name]
        assert list_names(places.endpoint.parent) == ["csi.sock"]
        assert kept.told[-1] is None


@pytest.mark.parametrize("is_expected", [True, False])
async def test_root_that_is_not_there_is_told_where_it_is_expected(root: Path, *, is_expected: bool) -> None:
    """A node without kubelet is as it is to be, unless the policy says that there is one."""
    told: list[AgentError | None] = []
    store = FdStore(WITHOUT_STORE)
    gone = str(root / "gone")
    sockets = KubeletSockets(gone, DRIVER, store, do_here, told.append, is_expected=is_expected)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sockets.run, Kept(sockets).serve)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert [gone in str(one) for one in told] == [True] * is_expected


async def test_nothing_is_left_without_a_store(root: Path) -> None:
    """An agent that ends and keeps no sockets takes them away, so that kubelet lets go of the driver."""
    places = start_kubelet(root)
    async with keeping(root) as kept:
        await until(lambda: kept.opened)
    assert not places.registration.exists()
    assert not places.endpoint.exists()


async def test_sockets_of_a_dead_agent_are_replaced(root: Path) -> None:
    """What nobody answers at any more is removed, and made anew."""
    places = start_kubelet(root)
    places.endpoint.parent.mkdir(parents=True)
    for path in (places.endpoint, places.registration):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    async with keeping(root) as kept:
        await until(lambda: kept.opened)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(places.endpoint))


async def test_another_plugin_is_left_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two plugins of one name the first stays; the second says so, and takes over once it is gone."""
    monkeypatch.setattr("agent.csi.sockets.keep_sockets.ABSENT_S", 0.05)
    places = start_kubelet(root)
    other = bind_socket(places.registration)
    inode = read_inode(places.registration)
    async with keeping(root) as kept:
        refused = await until(lambda: kept.told[-1] if kept.told else None)
        assert isinstance(refused, RefusedError)
        assert "DaemonSet" in str(refused)
        assert read_inode(places.registration) == inode
        assert not places.endpoint.exists()
        other.close()
        await until(lambda: kept.opened)
        assert kept.told[-1] is None


async def test_what_is_no_socket_is_left_alone(root: Path) -> None:
    """Nothing but sockets is removed."""
    places = start_kubelet(root)
    places.registration.write_text("mine")
    async with keeping(root) as kept:
        assert "no socket" in str(await until(lambda: kept.told[-1] if kept.told else None))
    assert places.registration.read_text() == "mine"


async def test_path_that_is_too_long_says_so(root: Path) -> None:
    """The kernel has no room for it, and the way out is a shorter name."""
    start_kubelet(root)
    async with keeping(root, driver="d" * 100) as kept:
        assert "agent.csi.driver" in str(await until(lambda: kept.told[-1] if kept.told else None))


async def test_sockets_follow_the_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the link leads elsewhere, the old ones go, and new ones are there once kubelet is."""
    monkeypatch.setattr("agent.csi.sockets.keep_sockets.WATCH_S", 0.02)
    link, old, new = root / "kubelet", root / "a", root / "b"
    old_places = start_kubelet(old)
    new.mkdir()
    link.symlink_to(old)
    async with keeping(link) as kept:
        await until(lambda: kept.opened)
        assert kept.opened[0].places.root == str(old)
        link.unlink()
        link.symlink_to(new)
        await until(lambda: not old_places.registration.exists())
        assert list_names(new) == []
        new_places = start_kubelet(new)
        await until(lambda: len(kept.opened) > 1)
        assert new_places.registration.exists()
        assert new_places.endpoint.exists()


async def test_sockets_that_were_removed_come_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root that was rebuilt gets new ones."""
    monkeypatch.setattr("agent.csi.sockets.keep_sockets.WATCH_S", 0.02)
    places = start_kubelet(root)
    async with keeping(root) as kept:
        await until(lambda: kept.opened)
        places.registration.unlink()
        await until(lambda: len(kept.opened) > 1)
        assert places.registration.exists()


async def test_sockets_are_made_anew_once_what_was_told_holds_no_longer(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever watches for new ones asks again; it is done once, and both are of the new pair."""
    monkeypatch.setattr("agent.csi.sockets.keep_sockets.WATCH_S", 0.02)
    places, outdated = start_kubelet(root), list[int]()

    def is_current(registration: socket.socket) -> bool:
        return os.fstat(registration.fileno()).st_ino not in outdated

    async with keeping(root, is_current=is_current) as kept:
        await until(lambda: kept.opened)
        outdated.append(os.fstat(kept.opened[0].registration.fileno()).st_ino)
        await until(lambda: len(kept.opened) > 1)
        old, new = kept.opened
        assert (old.registration.fileno(), old.endpoint.fileno()) == (-1, -1)
        await anyio.sleep(0.2)
        assert kept.opened == [old, new]
        assert (read_inode(places.endpoint), read_inode(places.registration)) == new.inodes


async def test_restart_behind_stored_sockets_keeps_the_files(root: Path, systemd: fd_store.FdStore) -> None:
    """The next agent serves the same sockets, and who connected in between is answered by it."""
    places = start_kubelet(root)
    async with keeping(root, FdStore({"NOTIFY_SOCKET": str(systemd.path)})) as kept:
        await until(lambda: kept.opened and len(systemd.stored) == 2)
    before = read_inode(places.endpoint), read_inode(places.registration)
    assert None not in before
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(places.endpoint))
        async with keeping(root, hand_back(systemd)) as again:
            await until(lambda: again.opened)
            assert (read_inode(places.endpoint), read_inode(places.registration)) == before
            accepted, _ = again.opened[0].endpoint.accept()
            accepted.close()
            again.sockets.withdraw()
            await until(lambda: not systemd.stored)
    assert not places.registration.exists()


async def test_stored_sockets_whose_files_are_gone_are_made_anew(
    root: Path, systemd: fd_store.FdStore
) -> None:
    """Listening at what nobody can find is of no use."""
    places = start_kubelet(root)
    async with keeping(root, FdStore({"NOTIFY_SOCKET": str(systemd.path)})) as kept:
        await until(lambda: kept.opened and len(systemd.stored) == 2)
    places.registration.unlink()
    async with keeping(root, hand_back(systemd)) as again:
        await until(lambda: again.opened and len(systemd.stored) == 2)
        for path in (places.endpoint, places.registration):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect(str(path))


async def test_two_drivers_keep_their_sockets_over_restarts(root: Path, systemd: fd_store.FdStore) -> None:
    """Neither takes those of the other for stale; one that is served no more goes, and that alone."""
    start_kubelet(root)
    stored = FdStore({"NOTIFY_SOCKET": str(systemd.path)})
    async with keeping(root, stored) as one, keeping(root, stored, POLICY_DRIVER) as other:
        await until(lambda: one.opened and other.opened and len(systemd.stored) == 4)
    both = [Places(str(root), driver) for driver in (DRIVER, POLICY_DRIVER)]
    before = [read_inode(places.endpoint) for places in both]
    again = hand_back(systemd)
    async with keeping(root, again) as one, keeping(root, again, POLICY_DRIVER) as other:
        await until(lambda: one.opened and other.opened)
        assert [read_inode(places.endpoint) for places in both] == before
    last = hand_back(systemd)
    drop_stored(last, served={DRIVER})
    for sock in last.found.values():
        sock.close()
    await until(lambda: len(systemd.stored) == 2)
    assert [places.registration.exists() for places in both] == [True, False]


async def test_face_that_is_off_gives_back_what_was_stored(root: Path, systemd: fd_store.FdStore) -> None:
    """Switched off between two starts, the driver is let go of all the same."""
    places = start_kubelet(root)
    async with keeping(root, FdStore({"NOTIFY_SOCKET": str(systemd.path)})) as kept:
        await until(lambda: kept.opened and len(systemd.stored) == 2)
    drop_stored(hand_back(systemd))
    assert not places.registration.exists()
    assert not places.endpoint.exists()
    await until(lambda: not systemd.stored)


async def test_face_that_is_off_removes_what_a_dead_agent_left(root: Path) -> None:
    """Switched off after the agent was stopped for good, its sockets go; those of another plugin stay."""
    places = start_kubelet(root)
    places.endpoint.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(places.registration))
    with bind_socket(places.endpoint):
        await clear_sockets(str(root), (DRIVER,), FdStore(WITHOUT_STORE), do_here)
        assert places.endpoint.exists()
    assert not places.registration.exists()


async def test_plugin_is_registered_and_called_at_its_sockets(root: Path) -> None:
    """The one is asked what is there, and then the other, by the path that it told."""
    places = start_kubelet(root)
    told: list[Registration] = []
    plugin = NodePlugin(
        Plugin(DRIVER, "1.2.3"),
        partial(NodeService, ScriptedVolumes()),
        str(root),
        is_ready=lambda: True,
        tell_registration=told.append,
        allowed_uids=OURSELVES,
    )
    sockets = KubeletSockets(str(root), DRIVER, FdStore(WITHOUT_STORE), do_here, lambda _: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sockets.run, plugin.serve)
        await until(places.registration.exists)
        async with Channel(path=str(places.registration)) as channel:
            info = await RegistrationStub(channel).GetInfo(registration_pb2.InfoRequest())
        assert info.endpoint == str(places.endpoint)
        async with Channel(path=info.endpoint) as channel:
            said = await IdentityStub(channel).GetPluginInfo(csi_pb2.GetPluginInfoRequest())
        assert said.name == info.name == DRIVER
        tasks.cancel_scope.cancel()
