"""Who listens at an address, from what the kernel shows of sockets and of processes."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from agent.node.kernel.tcp_listeners import Listener, find_listener

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTENS = (
    "   0: {} 00000000:0000 {} 00000000:00000000 00:00000000 00000000  1001        0 77 1 0 100 0 0 10 0\n"
)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Return a /proc where process 42, ``nc``, has socket 77 open."""
    (tmp_path / "42/fd").mkdir(parents=True)
    (tmp_path / "42/comm").write_text("nc\x1b[1m\n")
    (tmp_path / "42/fd/3").symlink_to("socket:[77]")
    (tmp_path / "net").mkdir()
    return tmp_path


def put(proc: Path, address: str, table: str = "tcp", state: str = "0A") -> None:
    (proc / "net" / table).write_text(HEAD + LISTENS.format(address, state))


@pytest.mark.parametrize("host", ["127.0.0.1", "::", "localhost"])
@pytest.mark.parametrize(
    ("address", "table"),
    [
        ("0100007F:2672", "tcp"),
        ("00000000:2672", "tcp"),
        ("00000000000000000000000000000000:2672", "tcp6"),
        ("0000000000000000FFFF00000100007F:2672", "tcp6"),
    ],
)
def test_whoever_is_in_the_way_is_named(proc: Path, address: str, table: str, host: str) -> None:
    """One address, all of them, and IPv6 that takes IPv4 along; names hold no control characters."""
    put(proc, address, table)
    assert find_listener(host, 9842, str(proc)) == Listener(1001, 42, "nc?[1m")


@pytest.mark.parametrize(
    ("address", "state"), [("0200007F:2672", "0A"), ("0100007F:2673", "0A"), ("0100007F:2672", "01")]
)
def test_who_is_not_in_the_way_is_not(proc: Path, address: str, state: str) -> None:
    """Another address, another port, or a connection in place of one who listens."""
    put(proc, address, state=state)
    assert find_listener("127.0.0.1", 9842, str(proc)) is None


def test_all_who_hold_the_socket_are_told(proc: Path) -> None:
    """It may have been handed on: the agent holds one at which another process answers."""
    put(proc, "0100007F:2672")
    (proc / "43/fd").mkdir(parents=True)
    (proc / "43/fd/5").symlink_to("socket:[77]")
    found = find_listener("127.0.0.1", 9842, str(proc))
    assert found is not None
    assert {found.pid, *found.others} == {42, 43}


def test_process_out_of_sight_has_a_user(proc: Path) -> None:
    """Whose socket it is the kernel says in any case."""
    put(proc, "0100007F:2672")
    (proc / "42/fd/3").unlink()
    found = find_listener("127.0.0.1", 9842, str(proc))
    assert found == Listener(1001)
    assert found.describe() == "a process of user 1001"


def test_real_listener_is_found() -> None:
    """A process that listens is told by its number."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        found = find_listener("127.0.0.1", listener.getsockname()[1])
        assert found is not None
        assert (found.uid, found.pid) == (os.geteuid(), os.getpid())
    assert find_listener("127.0.0.1", 1) is None
