"""What AWS's answers may hold: every member of its own type and length, and nothing else is kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.cloud.aws import calls
from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.call import Call
from agent.cloud.aws_worker.answer_lines import (
    LINE_LIMIT_BYTES,
    MARKS_LIMIT,
    PARTS_LIMIT,
    GarbledError,
    count_marks,
    decode_reply,
    encode_failure,
    read_failure,
)
from agent.cloud.aws_worker.main import describe_failure, encode_reply, make_reply
from agent.cloud.errors.explain import explain_failure, explain_unread, require_read
from agent.core.errors import AgentError
from tests.aws.answers import ANSWERS, DESCRIBED

WRONG: tuple[Any, ...] = (
    {"a": 1},
    [1],
    "x" * 100_000,
    "\ud800",
    math.inf,
    -math.inf,
    math.nan,
    1.5,
    -1,
    10**30,
)
WRONG_FOR: dict[type, tuple[Any, ...]] = {
    str: (*WRONG, 1, True),
    int: (*WRONG, "1", True),
    bool: (*WRONG, "true", 1),
    list: (*(wrong for wrong in WRONG if not isinstance(wrong, list)), "a", [["a"]], ["a"], 1, [None]),
    dict: (*(wrong for wrong in WRONG if not isinstance(wrong, dict)), "a", 1),
}


def find_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value inside ``value``, the items of lists included."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*place, key)
        if isinstance(inner, (dict, list)):
            yield from find_places(inner, (*place, key))


def put(answer: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """Return the answer with another value at a place."""
    changed = copy.deepcopy(answer)
    holder: Any = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return changed


def parse(call: type[Call[Any]], answer: dict[str, Any]) -> Any:
    """Return what the answer says; what cannot be read of an entry is an error of that entry."""
    said = call.parse(call.__new__(call), answer)
    return said if call.named_by is None else require_read(said)


PLACES = [
    pytest.param(call, place, id=f"{call.operation}-{'.'.join(map(str, place))}")
    for call, answer in ANSWERS.items()
    for place in find_places(answer)
]


@pytest.mark.parametrize(("call", "place"), PLACES)
def test_a_member_of_another_type_is_an_error(call: type[Call[Any]], place: tuple[Any, ...]) -> None:
    """Whatever is put in a member's place, the answer is refused in words, never kept and never a crash."""
    answer = ANSWERS[call]
    assert parse(call, answer) is not None
    right: Any = answer
    for key in place:
        right = right[key]
    for wrong in WRONG_FOR[type(right)]:
        with pytest.raises(AgentError):
            parse(call, put(answer, place, wrong))


@pytest.mark.parametrize("entry", [None, 7, "x", [], {}, {"VolumeId": 7}, {"VolumeId": "vol-x"}, {"Size": 8}])
def test_an_entry_that_names_nothing_is_one_all_the_same(entry: Any) -> None:
    """It is in its place among the others, which are what they are, and bears no name."""
    call = calls.DescribeVolumes()
    before, found, after = call.parse({"Volumes": [DESCRIBED, entry, DESCRIBED]})
    assert before == after == require_read(call.parse({"Volumes": [DESCRIBED]}))[0]
    assert isinstance(found, Unread)
    assert found.name is None
    assert "does not name" in explain_unread(found).message


@pytest.mark.parametrize("member", ["Tags", "Attachments"])
def test_more_of_them_than_can_be_are_an_error(member: str) -> None:
    """Lists of one volume are bounded."""
    many = [{"Key": str(number), "Value": "", "State": "attached"} for number in range(1000)]
    with pytest.raises(AgentError, match="a list of 1000"):
        parse(calls.DescribeVolumes, {"Volumes": [{**DESCRIBED, member: many}]})


def test_words_of_aws_are_printable_and_people_s_own_as_they_are() -> None:
    """What is shown as AWS's word holds no control characters; a tag may, and none is refused for it."""
    with pytest.raises(AgentError, match="has to be printable"):
        parse(calls.DescribeVolumes, {"Volumes": [{**DESCRIBED, "State": "\x1b[2J"}]})
    (volume,) = parse(
        calls.DescribeVolumes, {"Volumes": [{**DESCRIBED, "Tags": [{"Key": "a", "Value": "b\nc"}]}]}
    )
    assert volume.tag("a") == "b\nc"


FAILURE = {"service": "ec2", "operation": "DescribeVolumes", "code": "Throttling", "message": "slow down"}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        3,
        "text",
        ["code"],
        {**FAILURE, "more": 1},
        *({**FAILURE, name: wrong} for name in ("code", "message", "request_id") for wrong in WRONG_FOR[str]),
        *({**FAILURE, "http_status": wrong} for wrong in WRONG_FOR[int]),
    ],
)
def test_a_failure_that_is_none_is_an_error(wrong: Any) -> None:
    """A failure has the members of one, each of its type."""
    with pytest.raises(AgentError):
        read_failure("ec2", "DescribeVolumes", wrong)


def test_a_failure_is_of_the_call_that_was_made() -> None:
    """The worker cannot have another call blamed, nor send a terminal's control words."""
    failure = read_failure("ec2", "DescribeVolumes", {**FAILURE, "operation": "X", "message": "\x1b[2Jno"})
    assert failure.operation == "DescribeVolumes"
    assert "\x1b" not in explain_failure(failure).message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"x\n",
        b"\xff\xfe\n",
        b"3\n",
        b"[]\n",
        b"{}\n",
        b'{"id": 1}\n',
        b'{"id": 1, "answer": []}\n',
        b'{"id": 1, "answer": {}, "failure": {}}\n',
        b'{"id": 1, "answer": {}, "more": 1}\n',
        b'{"id": "1", "answer": {}}\n',
        b'{"id": true, "answer": {}}\n',
        b'{"id": Infinity, "answer": {}}\n',
        b'{"id": [1], "answer": {}}\n',
        b'{"id": 1, "answer": {}, "more": false}\n',
        b'{"id": 1, "failure": {}, "more": true}\n',
        b'{"id": 1, "answer": ' + b'{"a":' * 100_000 + b"\n",
        b'{"id": 1, "answer": {"a": [' + b"[]," * 2_000_000 + b"[]]}}\n",
        b'{"id": 1, "answer": {"a": ' + b"9" * 100_000 + b"x}}\n",
    ],
)
def test_a_line_that_is_no_reply_is_garbled(line: bytes) -> None:
    """What the worker writes is a reply, or it is not believed any more."""
    with pytest.raises(GarbledError):
        decode_reply(line)


class Answering:
    """Takes the place of botocore in the worker."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self._answer = answer

    def call(self, _call: object, _parameters: object) -> Any:
        return self._answer()


@pytest.mark.parametrize(
    ("operation", "answer", "code"),
    [
        ("NoSuchCall", {}, "UnknownOperation"),
        ("DescribeVolumes", {"Volumes": [object()]}, "TypeError"),
        ("DescribeVolumes", {"Volumes": ["x" * LINE_LIMIT_BYTES]}, "ValueError"),
    ],
)
def test_the_worker_always_replies(operation: str, answer: Any, code: str) -> None:
    """A call that is not known and an answer that cannot be sent are failures of that call."""
    asked = encode_reply({"id": 7, "operation": operation, "parameters": {}})
    reply = decode_reply(make_reply(asked, Answering(lambda: answer)))  # type: ignore[arg-type]
    assert reply.number == 7
    assert read_failure("ec2", operation, reply.failure).code == code


def describe_many(number: int, tags: int, length: int) -> dict[str, Any]:
    marks = [{"Key": f"key-{n:03}", "Value": "v" * length} for n in range(tags)]
    return {"Volumes": [{**DESCRIBED, "VolumeId": f"vol-{n:017x}", "Tags": marks} for n in range(number)]}


def test_ten_thousand_volumes_are_one_answer() -> None:
    """What is longer than a line comes in several, each within its bounds, and is whole again."""
    answer = describe_many(10_000, 5, 60)
    asked = encode_reply({"id": 7, "operation": "DescribeVolumes", "parameters": {}})
    lines = make_reply(asked, Answering(lambda: answer)).splitlines(keepends=True)  # type: ignore[arg-type]
    replies = [decode_reply(line) for line in lines]
    assert 1 < len(lines) <= PARTS_LIMIT
    assert max(map(len, lines)) <= LINE_LIMIT_BYTES
    assert [reply.has_more for reply in replies] == [True] * (len(lines) - 1) + [False]
    parts = [reply.answer or {} for reply in replies]
    found = require_read(calls.DescribeVolumes().parse_parts(parts))
    assert [one.volume_id for one in found] == [one["VolumeId"] for one in answer["Volumes"]]


def test_ten_thousand_volumes_have_room_for_all_their_tags() -> None:
    """Fifty tags of a hundred letters each, on every one of them, are less than an answer may have."""
    answer = describe_many(100, 50, 100)
    (line,) = make_reply(
        encode_reply({"id": 7, "operation": "DescribeVolumes", "parameters": {}}),
        Answering(lambda: answer),  # type: ignore[arg-type]
    ).splitlines(keepends=True)
    assert 100 * len(line) <= 0.9 * PARTS_LIMIT * LINE_LIMIT_BYTES
    assert 100 * count_marks(line) <= 0.9 * PARTS_LIMIT * MARKS_LIMIT


@pytest.mark.parametrize("items", [["x"] * 3 + ["y" * LINE_LIMIT_BYTES], ["z" * (5 << 20)] * 13])
def test_answer_that_has_no_bounds_is_a_failure(items: list[Any]) -> None:
    """One item that is too long for a line, and more lines than there may be, are no answer."""
    asked = encode_reply({"id": 7, "operation": "DescribeVolumes", "parameters": {}})
    reply = decode_reply(make_reply(asked, Answering(lambda: {"Volumes": items})))  # type: ignore[arg-type]
    assert read_failure("ec2", "DescribeVolumes", reply.failure).code == "ValueError"


def test_the_worker_s_own_failures_are_read() -> None:
    """However long and odd an exception's text is, it arrives as a failure."""
    failure = describe_failure(calls.DescribeVolumes, RuntimeError("\ud800" + "é" * 100_000))
    reply = decode_reply(encode_failure(1, failure))
    assert read_failure("ec2", "DescribeVolumes", reply.failure).code == "RuntimeError"
