"""Who asks AWS for the controller, and whether that one can read the pod's token."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.controller import worker_user
from agent.controller.worker_user import TOKEN_FILES, choose_worker_user, may_read
from agent.core.errors import AgentError

NOBODY, SOMEBODY = 65534, 65533


@pytest.fixture
def token() -> Iterator[Path]:
    """Give a token as kubelet lays it: behind links, and to be read by its owner alone."""
    with tempfile.TemporaryDirectory() as made:  # which others may go into, unlike pytest's own
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "..data").mkdir()
        (folder / "..data" / "token").write_text("t")
        (folder / "..data" / "token").chmod(0o600)
        (folder / "token").symlink_to("..data/token")
        yield folder / "token"


@pytest.mark.parametrize(
    ("mode", "folder", "is_read"), [(0o600, 0o755, False), (0o644, 0o755, True), (0o644, 0o700, False)]
)
def test_a_token_is_read_by_whom_its_modes_let(token: Path, mode: int, folder: int, *, is_read: bool) -> None:
    real = token.resolve()
    real.chmod(mode)
    real.parent.chmod(folder)
    others = NOBODY if real.stat().st_uid != NOBODY else SOMEBODY
    assert may_read(token, others) is is_read
    assert may_read(token.parent / "missing", others)


@pytest.mark.parametrize("name", TOKEN_FILES)
def test_root_is_told_that_its_worker_cannot_read_the_token(
    token: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """At the start, with the way out; else every call would fail, and name no cause."""
    monkeypatch.setattr(worker_user, "choose_user", lambda _user, _endpoint: NOBODY)
    with pytest.raises(AgentError, match=name) as raised:
        choose_worker_user({name: os.fspath(token)}, None)
    assert "runAsUser" in str(raised.value.hint)
    token.resolve().chmod(0o644)
    assert choose_worker_user({name: os.fspath(token)}, None) == NOBODY
    assert choose_worker_user({}, None) == NOBODY


def test_who_is_not_root_asks_as_himself(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_user, "choose_user", lambda _user, _endpoint: None)
    assert choose_worker_user({TOKEN_FILES[0]: os.fspath(token)}, None) is None
