"""Who a face is to be."""

from __future__ import annotations

import os
import pwd

import pytest

from agent.cloud.service import WORKER_USER
from agent.node.isolate.unprivileged import COMMON_USER, NOBODY_UID
from agent.report.broker import process as broker
from agent.report.feed.face_process import choose_user
from agent.report.web import process as web


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Give the users of a machine of the test's, on which it is root."""
    known: dict[str, int] = {}
    record = pwd.getpwuid(0)

    def find(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", known[name], known[name], *record[4:]))

    monkeypatch.setattr(pwd, "getpwnam", find)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return known


def test_each_face_is_a_user_of_its_own(users: dict[str, int]) -> None:
    """None of them is another one's, nor the one that all would share."""
    names = (web.USER, broker.USER, WORKER_USER)
    assert len({*names, COMMON_USER}) == 4
    users.update({name: 900 + number for number, name in enumerate((COMMON_USER, *names))})
    assert [choose_user(name) for name in names] == [901, 902, 903]


def test_a_machine_without_that_user_has_the_common_one(users: dict[str, int]) -> None:
    """One that an earlier version was installed on; where that is missing, too, it is nobody, never root."""
    assert choose_user(web.USER) == NOBODY_UID
    users[COMMON_USER] = 900
    assert choose_user(web.USER) == 900


def test_who_is_not_root_stays_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert choose_user(web.USER) is None
