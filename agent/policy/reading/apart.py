"""Reads a policy in a process of its own, for a daemon that is to have neither pydantic nor a YAML parser.

``agent.policy.policy_file`` asks it, by the name of ``answer``.
"""

from __future__ import annotations

import os

from agent.policy.handing_over import read_request, write_answer
from agent.policy.reading.loading import read_content

_SAMPLE = b"""\
version: 1
agent: {mqtt: {host: broker.example.com}, resync: 1}
classes: {a: {iop: 1}}
volumes: [{name: a, match: {size: 1GiB}, filesystem: {type: ext5}, mount: {path: /data/a}}]
"""
"""A policy with faults of several kinds."""


def prepare() -> None:
    """Have everything imported and built that reading takes: where there are no rights, nothing is found."""
    # What other distributions would plug into the policy's parser has no business here, and is slow to find.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    read_content(_SAMPLE)


def answer(request: bytes) -> bytes:
    """Return the answer to a request, both as ``agent.policy.handing_over`` has them."""
    content, locs = read_request(request)
    source, problems = read_content(content)
    lines = [] if problems else [source.find_mark(loc, at_key=True).line for loc in locs]
    return write_answer(source.content, problems, lines)
