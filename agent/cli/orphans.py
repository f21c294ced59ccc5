"""``ebs-agent orphans``: claims' volumes that nobody holds, and deleting them by order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from agent.cli.cloud import carry_out
from agent.cli.show.estimate import WHOLE, Estimate
from agent.cli.show.output import JsonOption, print_answer, print_json
from agent.cli.show.progress import Lines
from agent.core.errors import InvalidValueError


def orphans(
    context: typer.Context,
    volumes: Annotated[list[str] | None, typer.Argument(help="Volumes to delete, with --delete.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete the volumes named, or --all.")] = False,
    all_of_them: Annotated[
        bool, typer.Option("--all", help="With --delete: all that may be, once you say yes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List claims' volumes that nobody holds, summed up. Deletes only by order, and only what may be.

    A volume may be deleted when its last holder is proven gone and no entry of the policy is for it.
    """
    named = volumes or []
    if bool(named or all_of_them) != delete or (named and all_of_them):
        raise InvalidValueError(
            "Deleting takes --delete and either volumes or --all.",
            hint="Example: ebs-agent orphans --delete vol-0123456789abcdef0",
        )
    if not delete or all_of_them:
        answer = carry_out(context, "orphans", as_json)
        if not as_json or not delete:
            print_answer(answer, "show_orphans", as_json=as_json)
        named = [one["volume_id"] for one in answer["orphans"] if one["may_be_deleted"]]
    if not delete:
        return
    if named and all_of_them and not yes:
        typer.confirm(f"Delete {len(named)} volumes, and what is on them?", abort=True, err=as_json)
    deleted: list[str] = []
    try:
        _delete(context, named, deleted, as_json=as_json)
    finally:
        if as_json and (deleted or all_of_them):
            print_json({"deleted": deleted})


def _delete(context: typer.Context, named: Sequence[str], deleted: list[str], *, as_json: bool) -> None:
    """Delete one after the other, and note in ``deleted`` those that are gone."""
    lines = Lines(Estimate(), to_stderr=as_json)
    for one in named:
        deleted.append(carry_out(context, "delete-orphan", as_json, volume=one)["volume_id"])
        if len(named) > 1:
            lines.tell(
                f"{len(deleted)} of {len(named)} volumes are deleted.", WHOLE * len(deleted) / len(named)
            )
