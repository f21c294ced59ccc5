"""A Prometheus that is broken, or whose answers somebody else writes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from agent.cli.fleet import prometheus
from agent.cli.fleet.prometheus import Prometheus
from agent.core.errors import AgentError, ExitCode


@contextmanager
def answering(answer: bytes) -> Iterator[Prometheus]:
    """Give a Prometheus that answers everything so, and ends the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Prometheus(urlsplit(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def answer(content: bytes, status: str = "200 OK") -> bytes:
    """Return an HTTP answer."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(content), content)


def tell(*series: dict[str, Any]) -> bytes:
    """Return an answer of Prometheus."""
    return answer(json.dumps({"status": "success", "data": {"result": series}}).encode())


@pytest.mark.parametrize("value", ["NaN", "+Inf", "1e308", "-5", "x"])
def test_numbers_that_are_none(value: str) -> None:
    """A volume whose size nobody can have is shown without it, and fuller than full is full."""
    metric = {"volume_id": "vol-1", "instance": "i", "condition": "Ready"}
    with answering(tell({"metric": metric, "value": [1, value]})) as asked:
        *_, row = asked.list_rows()
    assert (row.volume_id, row.size_bytes) == ("vol-1", None)
    assert row.used is None or 0 <= row.used <= 1


def test_reasons_without_end() -> None:
    """Of one volume no more are shown than there is room for."""
    series = [{"metric": {"instance": "i", "reason": str(one)}, "value": [1, "1"]} for one in range(100)]
    with answering(tell(*series)) as asked:
        *_, row = asked.list_rows()
    assert len(row.reasons) == 8


@pytest.mark.parametrize(
    "content",
    [
        b"not HTTP at all\r\n\r\n",
        answer(b"<html>"),
        answer(b'{"status":"success","data":{"result":[1,"2"]}}'),
        answer(b'{"status":"success","data":{"result":[{"metric":{"a":1},"value":[1,"2"]}]}}'),
        answer(b"[" * 100_000),
        answer(b"{}", "302 Found\r\nLocation: http://elsewhere.example/"),
        answer(b"x" * 2000),
        b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{}",
    ],
)
def test_answers_that_are_none(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused with what is wrong, however long they are, and nobody else is asked."""
    monkeypatch.setattr(prometheus, "MOST_BYTES", 1000)
    with answering(content) as asked, pytest.raises(AgentError, match="cannot be asked") as refused:
        list(asked.list_rows())
    assert refused.value.exit_code is ExitCode.NO_ANSWER
