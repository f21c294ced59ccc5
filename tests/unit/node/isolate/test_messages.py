from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from agent.core.errors import AgentError, ExitCode, InvalidValueError, NotAnsweringError, RefusedError
from agent.core.model import Reason
from agent.node.isolate import messages
from agent.node.isolate.messages import Fd, MessageError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def receive(sock: socket.socket) -> messages.Inbox:
    inbox = messages.receive(sock)
    assert inbox is not None
    return inbox


def test_descriptor_arrives_as_another_for_the_same_file(pair: tuple[socket.socket, socket.socket]) -> None:
    """However deep a descriptor stands in a value, the other side gets its own for the same file."""
    read_end, write_end = os.pipe()
    messages.send(pair[0], {"deep": [(Fd(write_end), 7)]})
    inbox = receive(pair[1])
    arrived = inbox.decode()["deep"][0][0]
    os.close(write_end)
    assert isinstance(arrived, Fd)
    os.write(arrived, b"x")
    assert os.read(read_end, 1) == b"x"
    inbox.close_fds()
    os.close(read_end)


def test_message_keeps_what_has_come_of_the_next(pair: tuple[socket.socket, socket.socket]) -> None:
    """A first word and an answer may arrive together; each is read, the second with its descriptor."""
    read_end, write_end = os.pipe()
    messages.send(pair[0], messages.Started(7))
    messages.send(pair[0], [Fd(write_end)])
    inbox = messages.Inbox()
    while not inbox.fds:
        inbox.receive(pair[1])
    assert inbox.decode() == messages.Started(7)
    assert inbox.is_complete
    (arrived,) = inbox.decode()
    assert not inbox.received
    inbox.close_fds()
    assert arrived != write_end
    os.close(read_end)
    os.close(write_end)


def test_plain_number_is_no_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    """Only what is marked as a descriptor is one: a number stays a number."""
    assert messages.send(pair[0], [3, 4]) == []
    inbox = receive(pair[1])
    assert inbox.decode() == [3, 4]
    assert inbox.fds == []


def test_message_larger_than_the_socket(pair: tuple[socket.socket, socket.socket]) -> None:
    """A value of megabytes, as mountinfo can be, arrives whole."""
    value = os.urandom(3 << 20)
    sender = threading.Thread(target=messages.send, args=(pair[0], value))
    sender.start()
    assert receive(pair[1]).decode() == value
    sender.join()


@pytest.mark.parametrize(
    "error",
    [
        AgentError("Plain."),
        RefusedError("No.", hint="Why.", reason=Reason.NOT_BLANK, retryable=False),
        NotAnsweringError(message="Silent.", reason=Reason.STALLED, exit_code=ExitCode.NO_ANSWER),
        InvalidValueError("Wrong."),
    ],
)
def test_error_keeps_its_fields(error: AgentError) -> None:
    """An error raised in a worker reaches the daemon with class and fields, keywords or not."""
    message, fds = messages.encode(error)
    inbox = messages.Inbox(bytearray(message))
    again = inbox.decode()
    assert fds == []
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert str(again) == str(error)


def test_end_in_the_middle_of_a_message(pair: tuple[socket.socket, socket.socket]) -> None:
    """A worker that dies while it answers is an error, and no short answer."""
    message, _ = messages.encode("answer")
    pair[0].sendall(message[:-1])
    pair[0].close()
    with pytest.raises(MessageError, match="middle"):
        messages.receive(pair[1])


def test_end_between_messages(pair: tuple[socket.socket, socket.socket]) -> None:
    """A socket closed between messages is the end and no error."""
    pair[0].close()
    assert messages.receive(pair[1]) is None


def test_length_beyond_reason_is_refused() -> None:
    """A crashed worker's garbage cannot make the daemon wait for gigabytes."""
    with pytest.raises(MessageError, match="announced"):
        _ = messages.Inbox(bytearray(b"\xff" * 8)).is_complete


def test_descriptor_already_closed_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    """A descriptor that is none cannot be sent, and says so at the sender."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(OSError, match="Bad file descriptor"):
        messages.send(pair[0], Fd(write_end))
