"""Which request is answered by what. Orders of those who may give none are refused first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from typing_extensions import override

from agent.core.errors import AgentError, ExitCode
from agent.report import api
from agent.report.control.authority import NotPermittedError, refuse_all_orders, refuse_orders_of_others
from agent.report.control.messages import Answer, Handler, Request, answer_json, answer_text

_STATUS_OF = {
    ExitCode.USAGE: HTTPStatus.NOT_FOUND,
    ExitCode.REFUSED: HTTPStatus.CONFLICT,
    ExitCode.NOT_READY: HTTPStatus.GATEWAY_TIMEOUT,
}


class App:
    """The routes: a path, with names in braces for what differs, and a method."""

    def __init__(self) -> None:
        self._routes: dict[str, dict[str, Handler]] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Have requests answered by ``handler``; those by HEAD as those by GET."""
        handlers = self._routes.setdefault(path, {})
        handlers[method] = handler
        if method == "GET":
            handlers["HEAD"] = handler

    async def answer(self, request: Request) -> Answer | None:
        """Answer a request; an AgentError of whatever answers is an answer, too."""
        route, words = self._find(request.path)
        request = replace(request, route=route, words=words)
        try:
            self._refuse(request)
            if route is None:
                return answer_text(HTTPStatus.NOT_FOUND)
            handler = self._routes[route].get(request.method)
            if handler is None:
                return answer_text(HTTPStatus.METHOD_NOT_ALLOWED)
            return await handler(request)
        except AgentError as error:
            return answer_error(error)

    def make_for_looking(self, orders_at: Path) -> App:
        """Return what answers the same but orders, whoever gives them: those are taken at ``orders_at``."""
        return _LookingApp(self._routes, orders_at)

    def _refuse(self, request: Request) -> None:
        refuse_orders_of_others(request)

    def _find(self, path: str) -> tuple[str | None, Mapping[str, str]]:
        for route in self._routes:
            words = _match(route, path)
            if words is not None:
                return route, words
        return None, {}


class _LookingApp(App):
    def __init__(self, routes: dict[str, dict[str, Handler]], orders_at: Path) -> None:
        super().__init__()
        self._routes = routes
        self._orders_at = orders_at

    @override
    def _refuse(self, request: Request) -> None:
        refuse_orders_of_others(request)
        refuse_all_orders(request, self._orders_at)


def answer_error(error: AgentError, status: HTTPStatus | None = None) -> Answer:
    """Return what a client needs to raise the same error again."""
    if status is None:
        status = _STATUS_OF.get(error.exit_code, HTTPStatus.INTERNAL_SERVER_ERROR)
    if isinstance(error, NotPermittedError):
        status = HTTPStatus.FORBIDDEN
    return answer_json(api.show_error(error), status)


def parse_target(target: str) -> tuple[str, Mapping[str, str]]:
    """Return path and query of a request's target; the path as it stands, and of equal names the first."""
    path, _, query = target.partition("#")[0].partition("?")
    if not path.startswith("/"):  # RFC 9112, 3.2.2: a proxy is asked so
        path = "/" + path.partition("://")[2].partition("/")[2]
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        found.setdefault(name, value)
    return path, found


def _match(route: str, path: str) -> Mapping[str, str] | None:
    """Return the words of a path that a route has names for; a slash that is no separator stands as %2F."""
    names, parts = route.split("/"), path.split("/")
    if len(names) != len(parts):
        return None
    words: dict[str, str] = {}
    for name, part in zip(names, map(unquote, parts), strict=True):
        braced = re.fullmatch(r"\{(\w+)\}", name)
        if braced is None:
            if name != part:
                return None
        elif part:
            words[braced[1]] = part
        else:
            return None
    return words
