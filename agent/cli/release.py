"""``ebs-agent release --all``: every volume leaves this node, before it is moved or replaced."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.client import read_error
from agent.cli.cloud import follow
from agent.cli.show.output import JsonOption, print_json
from agent.core.errors import InvalidValueError


def release(
    context: typer.Context,
    all_of_them: Annotated[bool, typer.Option("--all", help="Every volume of the policy's.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Unmount, flush and detach everything, and leave it so until `attach` or `reload`.

    What somebody uses stays theirs, is named with who it is, and has this end with code 5.
    """
    if not all_of_them:
        raise InvalidValueError(
            "What is to be released is not said.",
            hint="Say release --all for every volume; ebs-agent detach VOLUME takes one away.",
        )
    answer = follow(context.obj.client.release_all(), "release", as_json=as_json)
    if as_json and "volumes" in answer:
        print_json({"done": "error" not in answer, "volumes": answer["volumes"]})
    if "error" in answer:
        raise read_error(answer)
