"""``ebs-agent check``: every problem of a policy file at once, the way compilers show theirs."""

from __future__ import annotations

import sys
from pathlib import Path

from agent.cli.show.output import print_json
from agent.core.errors import ExitCode, InvalidValueError
from agent.policy.reading import read_policy


def check_file(path: Path, *, as_json: bool) -> ExitCode:
    """Print the problems of the policy at ``path`` and return the exit code they deserve."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InvalidValueError(
            f"The policy {path} cannot be read: {error.strerror or error}.",
            hint="Give the path of the policy file: ebs-agent check FILE.",
        ) from error
    policy, problems = read_policy(text)
    if as_json:
        found = [
            {"line": p.line, "column": p.column, "where": p.where, "message": p.message, "hint": p.hint}
            for p in problems
        ]
        # Of a policy with problems nobody can say what it requires.
        required = None if policy is None else [entry.name for entry in policy.volumes if entry.required]
        print_json({"policy": str(path), "problems": found, "required": required})
    else:
        for problem in problems:
            where = f"{problem.where}: " if problem.where else ""
            sys.stdout.write(f"{path}:{problem.line}:{problem.column}: {where}{problem.message}\n")
            if problem.hint:
                sys.stdout.write(f"    {problem.hint}\n")
        if not problems:
            sys.stdout.write(f"{path}: no problems\n")
    return ExitCode.USAGE if problems else ExitCode.DONE
