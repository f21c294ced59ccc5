"""Which request is answered by what, and who is not answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import MappingProxyType
from urllib.parse import parse_qsl, unquote

from agent.core.errors import AgentError, ExitCode
from agent.core.replace import replace
from agent.report import api
from agent.report.http.messages import (
    Answer,
    Handler,
    NotPermittedError,
    Request,
    answer_json,
    answer_text,
)

Guard = Callable[[Request], Answer | None]

_STATUS_OF = {
    ExitCode.USAGE: HTTPStatus.NOT_FOUND,
    ExitCode.REFUSED: HTTPStatus.CONFLICT,
    ExitCode.NOT_READY: HTTPStatus.GATEWAY_TIMEOUT,
}


class App:
    """The routes: a path, with names in braces for what differs, and a method.

    ``guard`` looks at each request first: it answers it, has it go on by None, or raises AgentError.
    """

    def __init__(self, guard: Guard, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.headers = headers
        """Of every answer."""
        self._guard = guard
        self._routes: dict[str, dict[str, Handler]] = {}

    def add(self, method: str, path: str, handler: Handler) -> None:
        """Have requests answered by ``handler``; those by HEAD as those by GET."""
        handlers = self._routes.setdefault(path, {})
        handlers[method] = handler
        if method == "GET":
            handlers["HEAD"] = handler

    def guarded_by(self, guard: Guard) -> App:
        """Return what has the same routes behind another guard."""
        app = App(guard, self.headers)
        app._routes = self._routes
        return app

    async def answer(self, request: Request) -> Answer | None:
        """Answer a request; an AgentError of whatever answers is an answer, too."""
        route, words = self._find(request.path)
        request = replace(request, route=route, words=words)
        try:
            if answer := self._guard(request):
                return answer
            if route is None:
                return answer_text(HTTPStatus.NOT_FOUND)
            handler = self._routes[route].get(request.method)
            if handler is None:
                return answer_text(HTTPStatus.METHOD_NOT_ALLOWED)
            return await handler(request)
        except AgentError as error:
            return answer_error(error)

    def _find(self, path: str) -> tuple[str | None, Mapping[str, str]]:
        for route in self._routes:
            words = _match(route, path)
            if words is not None:
                return route, words
        return None, {}


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
