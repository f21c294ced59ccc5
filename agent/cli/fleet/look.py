"""Looks at a fleet, once or again and again, and prints it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import anyio
import anyio.to_thread
import typer
from msgspec import Struct

from agent.base.off_loop import do_here
from agent.cli.fleet.rows import Choice, View, make_view
from agent.cli.show.output import Output, print_json, print_line
from agent.cli.show.progress import telling
from agent.core.errors import AgentError, ExitCode, InvalidValueError
from agent.core.quoting import make_printable
from agent.policy.settings import MQTT_TLS_PORT, MqttSettings, MqttTls

MQTT_PORT = 1883
BROKER_REFRESH_S = 1.0
PROMETHEUS_REFRESH_S = 15.0
"""As often as it scrapes."""
RETRY_S = 5.0

Look = Callable[[], Awaitable[View]]


class Files(Struct, frozen=True):
    """As whom to ask."""

    username: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def has_tls(self) -> bool:
        return any((self.ca, self.cert, self.key))


class Source(Struct, frozen=True):
    """A broker or a Prometheus."""

    url: SplitResult
    files: Files
    is_broker: bool

    @asynccontextmanager
    async def looking(self, choice: Choice) -> AsyncIterator[Look]:
        """Give a function that returns the fleet as it is now. Raises AgentError, as the function may."""
        if not self.is_broker:
            prometheus = await self._make_prometheus()

            def ask() -> View:
                return make_view(prometheus.list_rows(choice.cluster), choice)

            yield lambda: anyio.to_thread.run_sync(ask, abandon_on_cancel=True)
            return
        from agent.cli.fleet.broker import listening  # noqa: PLC0415 -- with aiomqtt, for those who have a broker

        async with listening(self._make_settings(), choice.cluster) as get_fleet:

            async def look() -> View:
                fleet = get_fleet()
                return make_view(fleet.list_rows(), choice, fleet.left_out)

            yield look

    @property
    def refresh_s(self) -> float:
        return BROKER_REFRESH_S if self.is_broker else PROMETHEUS_REFRESH_S

    def _make_settings(self) -> MqttSettings:
        uses_tls = self.url.scheme == "mqtts"
        return MqttSettings(
            host=self.url.hostname or "",
            port=self.url.port or (MQTT_TLS_PORT if uses_tls else MQTT_PORT),
            tls=MqttTls(ca=_name(self.files.ca), cert=_name(self.files.cert), key=_name(self.files.key))
            if uses_tls
            else None,
            username=self.files.username,
            password_file=_name(self.files.password_file),
            topic=self.url.path.strip("/") or "ebs-agent",
        )

    async def _make_prometheus(self) -> Any:
        from agent.cli.fleet.prometheus import Prometheus  # noqa: PLC0415
        from agent.report.mqtt.login import read_password  # noqa: PLC0415
        from agent.report.serving.certificates import make_client_context, read_client_pems  # noqa: PLC0415

        files, tls = self.files, None
        own = (files.cert, files.key) if files.cert is not None and files.key is not None else None
        try:
            if self.url.scheme == "https":
                tls = make_client_context(await read_client_pems(do_here, files.ca, own))
            password, token = [
                None if path is None else await read_password(path, do_here)
                for path in (files.password_file, files.token_file)
            ]
        except AgentError as error:
            hint = "See --password-file, --token-file, --ca, --cert and --key."
            raise AgentError(error.message, hint=hint, exit_code=error.exit_code) from error
        return Prometheus(self.url, tls, files.username, password, token)


def choose_source(broker: str | None, prometheus: str | None, files: Files) -> Source:
    """Return where the options say. Raises InvalidValueError."""
    if (broker is None) == (prometheus is None):
        raise InvalidValueError(
            "One of --broker and --prometheus is needed, and not both.",
            hint="As --broker mqtts://broker.example, or --prometheus https://prometheus.example.",
        )
    schemes = ("mqtts", "mqtt") if broker is not None else ("https", "http")
    text = broker or prometheus or ""
    try:
        url = urlsplit(text)
        is_sound = url.scheme in schemes and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        url, is_sound = urlsplit(""), False
    if not is_sound or url.query or any(character in text for character in "+#"):
        raise InvalidValueError(
            f"{text!r} is no address of that kind.", hint=f"Write {schemes[0]}://HOST[:PORT]."
        )
    if url.username is not None or url.password is not None:
        raise InvalidValueError(
            "The address has a name or a password in it, which every user of this machine can read.",
            hint="Give --username and --password-file.",
        )
    if (files.cert is None) != (files.key is None):
        raise InvalidValueError("--cert and --key are needed together.")
    if files.has_tls and url.scheme in {"mqtt", "http"}:
        raise InvalidValueError(f"{url.scheme}:// is without TLS.", hint=f"Write {schemes[0]}://.")
    return Source(url, files, broker is not None)


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def show_once(source: Source, choice: Choice, output: Output) -> None:
    """Print a fleet as it is now."""

    async def look_once() -> View:
        async with source.looking(choice) as look:
            return await look()

    with telling("look at the fleet", to_stderr=True):
        view: View = anyio.run(look_once)
    _print(view, output)


def _print(view: View, output: Output) -> None:
    if output is Output.JSON:
        print_json(view.as_dict())
        return
    from agent.cli.fleet import table  # noqa: PLC0415 -- with rich, which JSON can do without
    from agent.cli.show.fitting_table import WIDE_COLUMNS  # noqa: PLC0415
    from agent.cli.show.render import print_view  # noqa: PLC0415

    if output is Output.NAME:
        _print_lines(table.list_names(view))
    elif output is Output.WIDE:
        print_view(table.show_fleet(view, is_wide=True), width=WIDE_COLUMNS)
    else:
        print_view(table.show_fleet(view))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _tell_aside(text: str) -> None:
    """Say something beside what a program reads."""
    typer.echo(text, err=True)


def show_watching(source: Source, choice: Choice, output: Output) -> None:
    """Print a fleet whenever it has changed, until interrupted; whoever does not answer is asked again."""
    if output is Output.JSON:
        anyio.run(_watch, source, choice, lambda view: print_line(view.as_dict()), _tell_aside)
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from agent.cli.fleet import table  # noqa: PLC0415

    if output is Output.NAME:
        anyio.run(_watch, source, choice, lambda view: _print_lines(table.list_names(view)), _tell_aside)
        return
    console = Console(highlight=False)
    with Live("", console=console, auto_refresh=False) as live:
        anyio.run(
            _watch,
            source,
            choice,
            lambda view: live.update(table.show_fleet(view, is_wide=output is Output.WIDE), refresh=True),
            lambda text: live.update(Text(text, style="red"), refresh=True),
            lambda: console.size,
        )


async def _watch(
    source: Source,
    choice: Choice,
    show: Callable[[View], None],
    tell: Callable[[str], None],
    measure: Callable[[], object] = lambda: None,
) -> None:
    """Show a fleet whenever it is another, or what ``measure`` returns of the place it is shown in is."""
    has_shown = False
    while True:
        try:
            async with source.looking(choice) as look:
                last = None
                while True:
                    view, place = await look(), measure()
                    if (view, place) != last:
                        show(view)
                    last, has_shown = (view, place), True
                    await anyio.sleep(source.refresh_s)
        except AgentError as error:  # noqa: PERF203 -- the rest of the loop is what is tried again
            # What is wrong from the start is the caller's to mend.
            if not has_shown or error.exit_code is not ExitCode.NO_ANSWER:
                raise
            tell(make_printable(error.message))
            await anyio.sleep(RETRY_S)
