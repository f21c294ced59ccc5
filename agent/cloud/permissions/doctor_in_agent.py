"""Lets ``doctor`` have the running agent examine itself: with its own environment, user and credentials.

What a unit's drop-ins and EnvironmentFile set, a proxy or a profile, holds for the agent alone; the shell
that ``doctor`` is run from knows nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import anyio
from msgspec import to_builtins

from agent.cloud.identity.identity_sources import IdentitySources, look_around
from agent.cloud.permissions.aws_environment import describe_environment
from agent.cloud.permissions.doctor_checks import examine_cloud
from agent.policy import Policy
from agent.report.http.app import App
from agent.report.http.messages import Answer, Request, answer_json


def add_examination(
    app: App,
    policy: Callable[[], Policy],
    surroundings: Callable[[], IdentitySources] = look_around,
) -> None:
    """Let the control socket answer ``POST /v1/examine``: environment and findings as the agent has them.

    ``{"environment": {name: value, …}, "findings": [{"subject", "is_ok", "found", "mend", "is_tried"}, …]}``.
    By POST, since it asks AWS: root alone may.
    """
    one_at_a_time = anyio.Lock()

    async def examine(_: Request) -> Answer:
        async with one_at_a_time:
            found = await examine_cloud(policy(), surroundings())
        environment = describe_environment(os.environ)
        return answer_json({"environment": environment, "findings": [to_builtins(one) for one in found]})

    app.add("POST", "/v1/examine", examine)
