"""What shows volumes to others: the board, and the history, sampler, HTTP, broker and hooks that read it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent.base.unit_process import find_unit
from agent.cloud.state.state_file import FileStore
from agent.core.model import NodeFacts, VolumeId
from agent.node.machine import Machine
from agent.policy import Policy
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.broker.process import USER as MQTT_USER
from agent.report.broker.process import MqttProcess
from agent.report.health.sampler import Sampler
from agent.report.history import FILE_NAME, HistoryKeeper
from agent.report.hook_call import run_hook_program
from agent.report.hook_unit import run_in_unit
from agent.report.hooks import HookRunner, RunHook, run_hook
from agent.report.past import FILE_NAME as PAST_NAME
from agent.report.past import PastKeeper, load_past
from agent.report.serving.certificates import Tls
from agent.report.serving.doors import HttpFace
from agent.report.serving.sockets import Listen
from agent.report.web.listen import choose_opener
from agent.report.web.process import USER as WEB_USER
from agent.report.web.process import WebProcess

if TYPE_CHECKING:
    from agent.report.feed.teller import Teller


class Faces:
    """The board and all that reads it, each as the policy in force has it."""

    def __init__(
        self,
        node: Machine,
        board: Board,
        counters: Counters,
        policy: Policy,
        wake: Callable[[VolumeId], None],
    ) -> None:
        self.board = board
        self.counters = counters
        self._node = node
        self._facts = NodeFacts()
        self._sampler = Sampler(node, board, wake)
        retained = FileStore(node.paths.state / "mqtt.json", node.aside)
        mqtt, web = find_unit("mqtt", MQTT_USER), find_unit("web", WEB_USER)
        self._mqtt = MqttProcess(board, counters, node.aside, retained, unit=mqtt)
        self._http = HttpFace(
            WebProcess(self._make_teller, unit=web),
            _choose_listen(policy),
            node.aside,
            partial(counters.note_certificate, "http"),
            choose_opener(find_unit("listen", WEB_USER)),
        )
        self._hooks = HookRunner(board, node.paths.hooks, lambda: self._facts, _choose_run(node), node.aside)
        self._history_keeper = HistoryKeeper(board.history, node.paths.state / FILE_NAME, node.save)
        self._past_keeper = PastKeeper(board, node.paths.state / PAST_NAME, node.save)

    def list_tasks(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        """Yield what is to be run, each with what it does."""
        yield "answer over HTTP", self._http.run
        yield "run hooks", self._hooks.run
        yield "write the history down", self._history_keeper.run
        yield "write down how volumes were", self._past_keeper.run
        yield "publish over MQTT", self._mqtt.run
        yield "sample how volumes are", self._sampler.run

    def put_policy(self, policy: Policy) -> None:
        """Sample and serve as the policy says from now on."""
        self._sampler.interval_s = policy.agent.health.interval_s
        self._sampler.may_write = policy.agent.health.write_probe
        self._http.apply(_choose_listen(policy))
        self.counters.note_policy_reload(is_in_force=True)

    def put_facts(self, policy: Policy, facts: NodeFacts) -> None:
        """Publish, and call hooks, as the node that ``facts`` tell of."""
        self._facts = facts
        self._mqtt.apply(policy.agent.mqtt, facts)

    async def recall_past(self) -> None:
        """Go on with how volumes were before this agent began."""
        self.board.recall(await load_past(self._node.paths.state / PAST_NAME, self._node.aside))

    async def flush_history(self) -> None:
        """Write down what is not written yet."""
        await self._history_keeper.flush()
        await self._past_keeper.flush()

    def summarize(self) -> str:
        """Return the line that ``systemctl status`` shows."""
        statuses = self.board.statuses()
        usable = sum(status.condition.is_usable for status in statuses)
        return f"{usable} of {len(statuses)} volumes usable"

    def _make_teller(self) -> Teller:
        # Imported when somebody asks, as agent.report.web.process says.
        from agent.report.feed.teller import Source, Teller  # noqa: PLC0415

        registry, sampler = self.counters.registry, self._sampler
        return Teller(Source(self.board, registry, sampler.readings, self._node.count_abandoned))


def _choose_run(node: Machine) -> RunHook:
    """Return how hooks are run: by systemd, where it runs the agent."""
    unit = find_unit("hook")
    run = run_hook_program if unit is None else partial(run_in_unit, unit)
    return partial(run_hook, aside=node.aside, run=run)


def _choose_listen(policy: Policy) -> Listen:
    http = policy.agent.http
    if http.tls is None:
        return Listen(http.host, http.port)
    client_ca = None if http.tls.client_ca is None else Path(http.tls.client_ca)
    return Listen(http.host, http.port, Tls(Path(http.tls.cert), Path(http.tls.key), client_ca))
