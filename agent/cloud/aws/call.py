"""What a call to AWS is: a frozen value that knows its parameters and what its answer says.

A call is declared, not programmed: its fields, each marked with the name it is sent under, how its answer is
read, and the sentence that says what it does. ``calls`` holds the list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import (
    Annotated,
    Any,
    ClassVar,
    Generic,
    Protocol,
    TypeVar,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from msgspec import Struct

from agent.cloud.aws.answer_fields import Members, read_entry
from agent.core.errors import AgentError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class SentAs(Struct, frozen=True):
    """The name of a parameter in botocore's service model, and how its value is written there.

    What is None, or written as an empty list, is not sent.
    """

    name: str
    write: Callable[[Any], Any] = lambda value: list(value) if isinstance(value, tuple) else value


Read = Callable[[Any], Any]


class Call(Generic[T_co]):
    """One call, named like the operation it makes; ``T_co`` is what its answer says.

    ``service`` is botocore's name of the service. ``reads`` takes the answer's members and returns what they
    say; where the answer is a list that spans pages, ``pages`` names it and ``reads`` takes one of its items.
    ``named_by`` is the member that tells what an item is about: where it is given, an item that cannot be
    read is an ``Unread``, and the others are what they are; elsewhere it fails the call.
    """

    service: ClassVar[str]
    operation: ClassVar[str]
    pages: ClassVar[str | None]
    is_repeatable: ClassVar[bool] = True
    """Making it twice is as good as once, so a lost answer may be asked for again."""
    named_by: ClassVar[str | None]
    _reads: ClassVar[tuple[Read]]
    _sent: ClassVar[tuple[tuple[str, SentAs], ...] | None]
    """(field, parameter); worked out when it is first sent, since most processes send few kinds of calls."""

    def __init_subclass__(
        cls,
        *,
        reads: Read = lambda _: None,
        service: str = "ec2",
        pages: str | None = None,
        named_by: str | None = None,
    ) -> None:
        super().__init_subclass__()
        cls.named_by = named_by
        cls.operation, cls.service, cls.pages = cls.__name__, service, pages
        cls._reads, cls._sent = (reads,), None

    def parameters(self) -> dict[str, Any]:
        """Return the call's parameters under their names in the service model."""
        written = {sent.name: sent.write(getattr(self, field)) for field, sent in self._list_sent()}
        return {name: value for name, value in written.items() if value is not None and value != []}

    @classmethod
    def _list_sent(cls) -> tuple[tuple[str, SentAs], ...]:
        if cls._sent is None:
            hints = get_type_hints(cls, include_extras=True).items()
            marked = ((field, get_args(hint)[1:]) for field, hint in hints if get_origin(hint) is Annotated)
            cls._sent = tuple(
                (field, mark) for field, marks in marked for mark in marks if isinstance(mark, SentAs)
            )
        return cls._sent

    def parse_parts(self, parts: Sequence[Mapping[str, Any]]) -> T_co:
        """Return what an answer says that came in parts, one after the other, each with some of its items."""
        if len(parts) == 1:
            return self.parse(parts[0])
        if self.pages is None:
            raise AgentError(f"the answer came in {len(parts)} parts, and it is no list")
        said: Any = tuple(item for part in parts for item in cast("tuple[Any, ...]", self.parse(part)))
        return cast("T_co", said)

    def parse(self, answer: Mapping[str, Any]) -> T_co:
        """Return what the answer says; AgentError where a member is not what it has to be."""
        (read,) = self._reads
        if self.pages is None:
            said: Any = read(answer)
        else:
            items = Members(answer, "the answer").list(self.pages)
            named_by = self.named_by
            said = tuple(read(one) if named_by is None else read_entry(read, named_by, one) for one in items)
        return cast("T_co", said)


class Change(Call[T_co]):
    """A call that changes something, and says what before it is made.

    Unless AWS makes it idempotent it must not be made again before looking what became of it.
    """

    _says: ClassVar[str]

    def __init_subclass__(cls, *, says: str = "", is_repeatable: bool = False, **declared: Any) -> None:
        super().__init_subclass__(**declared)
        cls._says, cls.is_repeatable = says, is_repeatable

    def describe(self) -> str:
        """Return what the call does, in the present tense."""
        return self._says.format(**vars(self))

    @property
    def purpose(self) -> Change[T_co]:
        """What the call is for: two calls with one purpose ask for the same, however they put it."""
        return self


Within = Callable[[], AbstractAsyncContextManager[Any]]


class Make(Protocol):
    """What makes calls: the client of the worker, or what stands in for it in a test."""

    async def __call__(self, call: Call[T], /, *, within: Within = nullcontext) -> T:
        """Return what the answer to the call says, or raise AgentError.

        ``within`` gives what is entered when it is the call's turn, just before AWS is asked, and left with
        its answer: anew for each attempt, and never while the call waits for its turn.
        """
