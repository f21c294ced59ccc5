"""The only process that speaks to AWS: reads calls from its standard input, makes them, writes the answers.

Run as ``python -m agent.cloud.aws_worker.main`` with a socket as standard input. It holds no state worth
keeping, decides nothing, makes only calls it knows, touches neither devices nor files of the agent, and may
be killed at any time. It ends when the socket does. Nothing else in the agent imports boto3.

One JSON object a line. In: ``{"id": 1, "operation": "DescribeVolumes", "parameters": {…}, "timeout_s": 30}``.
Out: ``{"id": 1, "answer": {…}}`` or ``{"id": 1, "failure": {…}}`` with the fields of ``errors.Failure``. A
list that is too long for a line comes in several, of which all but the last have ``"more": true``.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from agent.base.arrival import arrive
from agent.cloud.aws.all_calls import ALL_CALLS
from agent.cloud.aws.call import Call
from agent.cloud.aws_worker.answer_lines import (
    LINE_LIMIT_BYTES,
    MARKS_LIMIT,
    PARTS_LIMIT,
    count_marks,
    encode_failure,
)
from agent.cloud.aws_worker.throttle import AT_ONCE
from agent.cloud.errors.credential_rules import OF_CREDENTIALS
from agent.cloud.errors.explain import Failure
from agent.node.isolate.unprivileged import (
    be_killed_first,
    give_up_privileges,
    hide_memory,
    limit_resources,
)

_MAX_PAGES = 1000
_SLACK = 0.95
"""Of a line, how full it is meant to be where items are about alike."""
_ADDRESS_SPACE_BYTES = 1 << 30
"""Some 400 MB are in use once clients for all services are made, four fifths of it only reserved."""
_DESCRIPTORS = 256
_KNOWN: Mapping[str, type[Call[Any]]] = {call.operation: call for call in ALL_CALLS}


def choose_limits(processes: int) -> dict[int, int]:
    """Return what this process may take of the node, by the kinds of resource.

    ``processes`` bounds those of its user, threads included; 0 where the user has others.
    """
    limits = {resource.RLIMIT_AS: _ADDRESS_SPACE_BYTES, resource.RLIMIT_NOFILE: _DESCRIPTORS}
    return {**limits, resource.RLIMIT_NPROC: processes} if processes else limits


class Caller:
    """Makes each call once: whether and when it is asked again is for the daemon's ``Pacer`` alone to say."""

    def __init__(self, region: str | None, endpoint: str | None, at_once: int = AT_ONCE) -> None:
        self._region = region
        self._endpoint = endpoint
        self.at_once = at_once
        """How many calls may be under way together."""
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    def _find_client(self, call: type[Call[Any]]) -> Any:
        with self._lock:  # making a client is not safe in two threads
            if call.service not in self._clients:
                config = Config(
                    retries={"mode": "standard", "total_max_attempts": 1},
                    connect_timeout=5,
                    read_timeout=30,
                    max_pool_connections=self.at_once,
                    user_agent_extra="ebs-agent",
                )
                session = boto3.session.Session(region_name=self._region)
                self._clients[call.service] = session.client(
                    call.service,  # type: ignore[call-overload]  # a name from calls.py, not a literal
                    config=config,
                    endpoint_url=self._endpoint,
                )
            return self._clients[call.service]

    def call(self, call: type[Call[Any]], parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer's members, all pages together, or raise botocore's error."""
        client = self._find_client(call)
        try:
            return self._ask(client, call, parameters)
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            if describe_failure(call, error).code in OF_CREDENTIALS:
                self._drop_client(call, client)
            raise

    def _drop_client(self, call: type[Call[Any]], client: Any) -> None:
        """Have the next call make another client, which looks for credentials anew.

        A client looks once, when it is made, and asks instance metadata for a second: what it did not find
        then, or found in a file, it would keep for as long as it lives.
        """
        with self._lock:
            if self._clients.get(call.service) is client:
                del self._clients[call.service]

    def _ask(self, client: Any, call: type[Call[Any]], parameters: Mapping[str, Any]) -> dict[str, Any]:
        method = client.meta.method_to_api_mapping
        name = next(python for python, operation in method.items() if operation == call.operation)
        if call.pages is None:
            answer: dict[str, Any] = getattr(client, name)(**parameters)
            answer.pop("ResponseMetadata", None)
            return answer
        found = [one for page in self._page(client, name, parameters) for one in page.get(call.pages) or ()]
        return {call.pages: found}

    def _page(self, client: Any, name: str, parameters: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        following: dict[str, Any] = {}
        for _ in range(_MAX_PAGES):
            page = getattr(client, name)(**parameters, **following)
            yield page
            if not page.get("NextToken"):
                return
            following = {"NextToken": page["NextToken"]}
        raise RuntimeError(f"{name} has more than {_MAX_PAGES} pages")


def describe_failure(call: type[Call[Any]], error: Exception) -> Failure:
    """Return an exception of botocore as a failure: AWS's own code, or the exception's name."""
    if isinstance(error, botocore.exceptions.ClientError):
        answer = error.response
        metadata = answer.get("ResponseMetadata", {})
        return Failure(
            service=call.service,
            operation=call.operation,
            code=str(answer.get("Error", {}).get("Code", "Unknown")),
            message=str(answer.get("Error", {}).get("Message", "")),
            http_status=int(metadata.get("HTTPStatusCode", 0)),
            request_id=str(metadata.get("RequestId", "")),
        )
    return Failure(call.service, call.operation, type(error).__name__, str(error))


def encode_reply(reply: Mapping[str, Any]) -> bytes:
    """Return one line of JSON, times as ISO 8601; ValueError or TypeError where it cannot be one."""
    line = _write_line(reply)
    if len(line) > LINE_LIMIT_BYTES:
        raise ValueError(f"the answer has {len(line)} bytes of JSON, and {LINE_LIMIT_BYTES} are the most")
    return line


def encode_answer(number: Any, answer: Mapping[str, Any], pages: str | None) -> list[bytes]:
    """Return the lines of an answer: one, or several of a list that would be too long in one.

    ``pages`` names the list. ValueError where it would take too many, or one item is too long for a line.
    """
    if pages is None:
        return [encode_reply({"id": number, "answer": answer})]
    parts = list(_split(number, pages, answer[pages]))
    if len(parts) > PARTS_LIMIT:
        raise ValueError(f"the answer has {len(parts)} lines of JSON, and {PARTS_LIMIT} are the most")
    *firsts, last = parts
    more = [encode_reply({"id": number, "answer": {pages: part}, "more": True}) for part in firsts]
    return [*more, encode_reply({"id": number, "answer": {pages: last}})]


def _split(number: Any, pages: str, items: list[Any]) -> Iterator[list[Any]]:
    """Yield the items in parts that each fit into a line."""
    line = _write_line({"id": number, "answer": {pages: items}, "more": True})
    if (len(line) <= LINE_LIMIT_BYTES and count_marks(line) <= MARKS_LIMIT) or len(items) <= 1:
        yield items
    else:
        most = max(len(line) / LINE_LIMIT_BYTES, count_marks(line) / MARKS_LIMIT)
        size = max(int(len(items) / most * _SLACK), 1)
        for start in range(0, len(items), size):
            yield from _split(number, pages, items[start : start + size])


def _write_line(reply: Mapping[str, Any]) -> bytes:
    return json.dumps(reply, default=_encode, separators=(",", ":")).encode() + b"\n"


def _encode(value: object) -> str:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")


def make_reply(line: bytes, caller: Caller) -> bytes:
    """Return the line that answers a line of the daemon's: whatever happens, there is one."""
    asked = json.loads(line)
    number, operation = asked["id"], str(asked.get("operation"))
    call = _KNOWN.get(operation)
    if call is None:
        return encode_failure(number, Failure("", operation, "UnknownOperation", "the worker knows no such"))
    try:
        answer = caller.call(call, asked.get("parameters") or {})
        return b"".join(encode_answer(number, answer, call.pages))
    except Exception as error:  # noqa: BLE001 - this is where one call ends; its error is its answer
        return encode_failure(number, describe_failure(call, error))


def serve(stream: socket.socket, caller: Caller) -> None:
    """Answer calls until the other side closes, several at a time."""
    write_lock = threading.Lock()

    def answer(line: bytes) -> None:
        reply = make_reply(line, caller)
        with write_lock:
            stream.sendall(reply)

    pool = ThreadPoolExecutor(max_workers=caller.at_once)
    with stream.makefile("rb") as lines:
        for line in lines:
            pool.submit(answer, line)
    # The daemon is gone or has no more use for the worker: a call still under way is nobody's.
    os._exit(0)


def main() -> None:
    """Serve the socket that is standard input; the arguments are what ``process`` starts it with."""
    arrive()
    region, endpoint, processes, at_once = sys.argv[1:5]
    give_up_privileges()
    limit_resources(choose_limits(int(processes)))
    be_killed_first()
    hide_memory()
    serve(socket.socket(fileno=0), Caller(region or None, endpoint or None, int(at_once)))


if __name__ == "__main__":
    main()
