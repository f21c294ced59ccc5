"""``ebs-agent init``: a first policy, from what is attached here and what is wanted beside it.

It is commented and valid, and takes the place of no policy that says anything.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Struct

from agent.cli.client import Client, NoAnswerError
from agent.cli.show.output import JsonOption, print_json
from agent.core.errors import AgentError, InvalidValueError
from agent.core.units import format_size, parse_size, show_size

HEAD = """\
# What is wanted of every volume, on every node that this file is on. All keys: docs/policy.md.
# Mistakes are found by: ebs-agent check {path}
version: 1
"""
CLASSES = """
classes:
  usual: {type: gp3}        # more IOPS and throughput: iops: 6000, throughput: 500
"""
CLAIM = """
  # A volume of {size} for each node, made, attached and mounted by the agent.
  # What the nodes' role needs for it: ebs-agent iam-policy {path}
  - name: {name}
    claim: {{class: usual, size: {size}, on_delete: retain}}
    filesystem: {{type: ext4, format: if-blank}}
    mount: {{path: {mount}}}
    grow: true
    # required: true        # the node is not ready, and jobs wait, without it
"""
ATTACHED = """
  # {facts}, attached to this node as {device}. Nodes that do not have it do not wait for it.
  - name: {name}
    match: {{volume_id: {volume_id}}}
    filesystem: {{type: {type}, format: {format}}}{why}
    mount: {{path: {mount}}}
    grow: true
"""
NOTHING = """volumes: []
# Nothing is attached here that the policy could be for. A volume of its own for each node:
#   ebs-agent init --claim scratch:100GiB:/data/scratch
"""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", re.ASCII)
_FILESYSTEMS = ("ext4", "xfs", "btrfs")


class Claim(Struct, frozen=True):
    """A volume wanted for each node."""

    name: str
    size_bytes: int
    mount: str


def init(
    context: typer.Context,
    claim: Annotated[
        list[str] | None, typer.Option(metavar="NAME:SIZE:PATH", help="A volume for each node; several.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="The file to write; the usual one when not given.")
    ] = None,
    is_printed: Annotated[bool, typer.Option("--print", help="Print it, and write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing; take suggestions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a first policy, from what is attached here and what is wanted."""
    client: Client = context.obj.client
    path = output or context.obj.paths.policy
    text, steps = write_first_policy(client, path, claim or [], takes_defaults=yes, is_printed=is_printed)
    if as_json:
        print_json({"policy": str(path), "is_written": not is_printed, "text": text, "next": steps})
    elif is_printed:
        sys.stdout.write(text)
    else:
        typer.echo("\n".join((f"{path} is written.", *steps)))


def read_claim(text: str) -> Claim:
    """Return ``NAME:SIZE:PATH`` as a claim; InvalidValueError where it is none."""
    parts = text.split(":", 2)
    if len(parts) != 3 or not _NAME.fullmatch(parts[0]) or not parts[2].startswith("/"):  # noqa: PLR2004
        raise InvalidValueError(
            f"{text!r} is not NAME:SIZE:PATH.", hint="Write, for one: --claim scratch:100GiB:/data/scratch"
        )
    return Claim(parts[0], parse_size(parts[1]), parts[2])


def write_first_policy(
    client: Client, path: Path, claims: Sequence[str], *, takes_defaults: bool, is_printed: bool
) -> tuple[str, list[str]]:
    """Write a policy, unless it is only to be printed, and return its text and what to do next.

    ``takes_defaults``: ask nothing, and mount what is attached where it is suggested. Raises AgentError where
    there is a policy already that says something, and where what was answered makes no valid one.
    """
    from agent.policy.reading import read_policy  # noqa: PLC0415 -- slow

    if not is_printed:
        _check_replaceable(path)
    wanted = [read_claim(text) for text in claims]
    unmanaged = _list_unmanaged(client)
    attached = _choose(unmanaged or (), takes_defaults=takes_defaults)
    text = make_policy(path, wanted, attached)
    policy, problems = read_policy(text.encode())
    if policy is None or problems:
        found = problems[0]
        raise InvalidValueError(f"That is no policy: {found.where}: {found.message}", hint=found.hint)
    if not is_printed:
        _write(path, text)
    return text, _list_next(path, wanted, is_running=unmanaged is not None)


def make_policy(path: Path, claims: Iterable[Claim], attached: Iterable[tuple[dict[str, Any], str]]) -> str:
    """Return the text of a policy; ``attached``: volumes as ``status`` has them, and their paths."""
    claimed = "".join(
        CLAIM.format(name=one.name, size=format_size(one.size_bytes), mount=one.mount, path=path)
        for one in claims
    )
    named = "".join(_describe(volume, mount) for volume, mount in attached)
    head = HEAD.format(path=path)
    if not claimed and not named:
        return head + NOTHING
    return f"{head}{CLASSES if claimed else ''}\nvolumes:{claimed}{named}"


def _describe(volume: dict[str, Any], mount: str) -> str:
    found = volume["fstype"]
    why = "" if found else "   # never, unless it is proven blank"
    return ATTACHED.format(
        facts=show_size(volume["size_bytes"]) if volume["size_bytes"] else "A volume",
        device=volume["device"],
        name=Path(mount).name.lower(),
        volume_id=volume["volume_id"],
        type=found or "ext4",
        format="never" if found else "if-blank",
        why=why,
        mount=mount,
    )


def _check_replaceable(path: Path) -> None:
    """Refuse to take the place of a policy that says something; one as it is installed says nothing.

    Whatever it says counts, also what holds without being said: who wrote it down meant it.
    """
    from agent.policy.reading.loading import read_content  # noqa: PLC0415 -- slow

    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidValueError(
            f"{path} cannot be read: {error.strerror}.", hint="Run it as root."
        ) from error
    source, problems = read_content(text)
    if problems or any(value for key, value in source.content.items() if key != "version"):
        raise InvalidValueError(
            f"{path} is a policy already, and is not overwritten.",
            hint=f"See what would be written: ebs-agent init --print. Then edit {path}.",
        )


def _list_unmanaged(client: Client) -> list[dict[str, Any]] | None:
    """Return the volumes that no policy is for; None where no agent tells."""
    try:
        volumes = client.status()["volumes"]
    except NoAnswerError as error:
        sys.stderr.write(f"{error.message} So what is attached is not known, and is left out.\n")
        return None
    return [one for one in volumes if one["condition"] == "Unmanaged" and one["volume_id"] and one["device"]]


def _choose(volumes: Iterable[dict[str, Any]], *, takes_defaults: bool) -> list[tuple[dict[str, Any], str]]:
    """Return the volumes to mount and where, by asking or by suggestion."""
    chosen = []
    for number, volume in enumerate(volumes):
        if volume["fstype"] not in {None, *_FILESYSTEMS}:
            sys.stderr.write(f"{volume['volume_id']} holds {volume['fstype']} and is left alone.\n")
            continue
        mount = f"/data/volume{number or ''}"
        if not takes_defaults:
            holds = volume["fstype"] or "no filesystem"
            size = show_size(volume["size_bytes"] or 0)
            question = f"{volume['volume_id']} ({size}, {holds}): mount at (- for no)"
            mount = typer.prompt(question, default=mount, err=True)
        if mount != "-":
            chosen.append((volume, mount))
    return chosen


def _write(path: Path, text: str) -> None:
    """Put the file in its place whole, or not at all."""
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            new.unlink()
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        new.replace(path)
    except OSError as error:
        raise AgentError(f"{path} cannot be written: {error.strerror}.", hint="Run it as root.") from error


def _list_next(path: Path, claims: Sequence[Claim], *, is_running: bool) -> list[str]:
    steps = [f"What the node's role needs: ebs-agent iam-policy {path}"] if claims else []
    if not is_running:
        return [*steps, "Have it in force: systemctl start ebs-agent"]
    return [*steps, "Have it in force: ebs-agent reload", "See what is done: ebs-agent status --watch"]
