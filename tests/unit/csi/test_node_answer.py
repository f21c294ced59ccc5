"""A node that does not know who it is asks again when kubelet does, once for all who ask together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest

from agent.cloud.identity.identity_sources import IdentitySources
from agent.cloud.identity.whoami import CloudIdentity
from agent.core.errors import AgentError
from agent.core.model import AttachmentPlaces, NodeFacts
from agent.csi import node_answer
from agent.csi.calls import NodeInfo
from agent.csi.node_answer import NodeAnswer
from agent.csi.volumes.node_info import Told
from agent.policy.settings import CsiSettings
from agent.report.board.board import Board

pytestmark = pytest.mark.anyio

INSTANCE = "i-0123456789abcdef0"
HYPERPOD_ID = f"hyperpod-abcde01234yz-{INSTANCE}"
DRIVER = CsiSettings().driver


@dataclass
class Around:
    """A node whose sources say nothing until a test lets them, and note how often they were asked."""

    known: NodeFacts = field(default_factory=NodeFacts)
    """What the sources will say once they answer."""
    facts: NodeFacts = field(default_factory=NodeFacts)
    has_standins: bool = False
    account_zone: str | None = None
    is_hyperpod: bool = False
    identity_sources: IdentitySources = field(
        default_factory=lambda: IdentitySources(Path("/none"), metadata_endpoint=None)
    )
    asked: int = 0
    may_answer: anyio.Event = field(default_factory=anyio.Event)

    async def identify(self) -> CloudIdentity:
        self.asked += 1
        await self.may_answer.wait()
        self.facts = self.known.or_else(self.facts)
        return CloudIdentity()


def answer_for(around: Around, hear_news: Callable[[], None] = lambda: None) -> NodeAnswer:
    return NodeAnswer(around, Board(), CsiSettings(), hear_news)


async def test_node_that_knows_itself_is_not_asked_about() -> None:
    """What is known is told, and nobody is bothered."""
    around = Around(facts=NodeFacts(instance_id=INSTANCE))
    answer = answer_for(around)
    assert [(await answer.describe()).node_id, (await answer.say_who()).node_id] == [INSTANCE, INSTANCE]
    assert around.asked == 0


async def test_node_that_does_not_know_itself_is_identified_when_kubelet_asks() -> None:
    """Until the sources tell, kubelet is told so, and each of its questions has them asked once more."""
    around, news = Around(), list[int]()
    around.may_answer.set()
    answer = answer_for(around, lambda: news.append(around.asked))
    for times in (1, 2):
        with pytest.raises(AgentError, match="not known yet which instance") as caught:
            await answer.describe()
        assert (caught.value.retryable, around.asked, news) == (True, times, [])
    around.known = NodeFacts(instance_id=INSTANCE)
    assert (await answer.describe()).node_id == INSTANCE
    assert (around.asked, news) == (3, [3])


async def test_node_whose_cluster_is_not_known_is_identified_before_it_is_named() -> None:
    """By the instance alone a controller would have EC2 attach what HyperPod has to."""
    around = Around(facts=NodeFacts(instance_id=INSTANCE), is_hyperpod=True)
    around.may_answer.set()
    answer = answer_for(around)
    with pytest.raises(AgentError, match="not known yet of which HyperPod cluster"):
        await answer.describe()
    assert (around.asked, answer.find_told(DRIVER).node_id) == (1, None)
    around.known = NodeFacts(cluster_id="abcde01234yz")
    assert (await answer.describe()).node_id == HYPERPOD_ID
    assert (around.asked, answer.find_told(DRIVER).node_id) == (2, HYPERPOD_ID)


async def test_what_would_be_told_anew_is_known_without_asking() -> None:
    """A count and a zone's name that come with what AWS tells; of the other driver nothing but the node."""
    around, board = Around(facts=NodeFacts(instance_id=INSTANCE), is_hyperpod=False), Board()
    answer = NodeAnswer(around, board, CsiSettings(), lambda: None)
    settings = "attach_limit=None reserved=0 zone=None"
    assert answer.find_told(DRIVER) == Told(settings, INSTANCE)
    board.put_calls((), AttachmentPlaces("m5.large", 27, is_shared=True, attached=frozenset()))
    assert answer.find_told(DRIVER) == Told(settings, INSTANCE, has_room=True)
    around.account_zone = "us-west-2a"
    told = answer.find_told(DRIVER)
    assert told == Told(settings, INSTANCE, has_room=True, has_zone=True)
    assert told.as_in(await answer.describe()) == told
    assert answer.find_told("another.driver") == Told("", INSTANCE)
    limited = NodeAnswer(around, Board(), CsiSettings(attach_limit=20, zone="us-west-2a"), lambda: None)
    assert limited.find_told(DRIVER).has_room
    assert around.asked == 0


async def test_network_interfaces_are_counted_at_each_question() -> None:
    """More come with more pods."""
    interfaces, board = [1], Board()
    board.put_calls((), AttachmentPlaces("m5.large", 27, is_shared=True, attached=frozenset()))
    around = Around(facts=NodeFacts(instance_id=INSTANCE))
    answer = NodeAnswer(around, board, CsiSettings(), lambda: None, lambda: interfaces[-1])
    assert (await answer.describe()).max_volumes == 27
    interfaces.append(3)
    assert (await answer.describe()).max_volumes == 25


async def test_those_who_ask_together_share_one_identification() -> None:
    """Both drivers register at once, and kubelet asks about each."""
    around, told = Around(NodeFacts(instance_id=INSTANCE)), list[str]()
    answer = answer_for(around)

    async def ask(question: Callable[[], Awaitable[NodeInfo]]) -> None:
        told.append((await question()).node_id)

    async with anyio.create_task_group() as tasks:
        for question in (answer.describe, answer.say_who, answer.describe):
            tasks.start_soon(ask, question)
        await anyio.wait_all_tasks_blocked()
        around.may_answer.set()
    assert (told, around.asked) == ([INSTANCE] * 3, 1)


async def test_those_who_ask_together_are_all_told_that_nothing_is_known() -> None:
    """One question that brought nothing is enough for all of them."""
    around, errors = Around(), list[AgentError]()
    answer = answer_for(around)

    async def ask() -> None:
        with pytest.raises(AgentError) as caught:
            await answer.say_who()
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        around.may_answer.set()
    assert (len(errors), around.asked) == (3, 1)


async def test_one_who_hangs_up_leaves_the_question_to_the_next() -> None:
    """What was cancelled has told nobody anything."""
    around, scope = Around(NodeFacts(instance_id=INSTANCE)), anyio.CancelScope()
    answer = answer_for(around)

    async def ask_and_hang_up() -> None:
        with scope:
            await answer.say_who()

    async with anyio.create_task_group() as tasks:
        for ask in (ask_and_hang_up, answer.say_who):
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert around.asked == 2
        around.may_answer.set()
    assert around.facts.instance_id == INSTANCE


async def test_sources_that_do_not_answer_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer comes in the time that kubelet waits."""
    monkeypatch.setattr(node_answer, "IDENTIFY_S", 0.01)
    with anyio.fail_after(10), pytest.raises(AgentError, match="not known yet"):
        await answer_for(Around()).describe()
