"""The command ``ebs-agent``: turns every error into one sentence, a hint and an exit code."""

from __future__ import annotations

import os
import sys

from agent.base.paths import Paths
from agent.cli.run import read_plain_run, run_daemon
from agent.core.errors import AgentError, ExitCode
from agent.core.quoting import make_lines_printable

PROGRAM = "ebs-agent"
INTERRUPTED = 130
"""What shells expect of a program ended by Ctrl-C."""


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        _obey(sys.argv[1:])
    except AgentError as error:
        if os.environ.get("EBS_AGENT_DEBUG"):
            raise
        print_error(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the exit would complain again
        sys.exit(ExitCode.DONE)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        if os.environ.get("EBS_AGENT_DEBUG"):
            raise
        known = _find_agent_error(error) or AgentError(
            f"The agent met something it does not expect: {type(error).__name__}: {error}.",
            hint="Run the command again with --debug and report the traceback.",
        )
        print_error(known)
        sys.exit(known.exit_code)


def _obey(words: list[str]) -> None:
    options = read_plain_run(words)
    if options is not None:
        run_daemon(Paths.choose(options.get("--root")), options.get("--devices"), options.get("--policy"))
        return
    from agent.cli.app import app  # noqa: PLC0415 -- with typer, which the daemon can do without

    app(prog_name=PROGRAM)


def _find_agent_error(error: BaseException) -> AgentError | None:
    """Return the error that a task group failed with, where it is one of ours."""
    if isinstance(error, AgentError):
        return error
    inner = (_find_agent_error(part) for part in getattr(error, "exceptions", ()))
    return next((found for found in inner if found is not None), None)


def print_error(error: AgentError) -> None:
    """Say on standard error what went wrong, and the way out."""
    is_colourful = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    red, dim, plain = ("\033[31m", "\033[2m", "\033[0m") if is_colourful else ("", "", "")
    sys.stderr.write(f"{red}{PROGRAM}: {make_lines_printable(error.message)}{plain}\n")
    if error.hint:
        sys.stderr.write(f"{dim}{make_lines_printable(error.hint)}{plain}\n")


if __name__ == "__main__":
    main()
