"""The target's command line: `serve` is the target, everything else asks a running one.

python3 -m tests.ebs serve --directory /var/lib/ebs-target --connect
python3 -m tests.ebs attach vol-0123456789abcdef0 --size 10GiB --device-name /dev/sdf
python3 -m tests.ebs stall vol-0123456789abcdef0 --after 100
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from tests.ebs.control import OPERATIONS, call, serve_control
from tests.ebs.errors import Status, TargetError
from tests.ebs.faults import Operation
from tests.ebs.host import HostOptions, LinuxHost
from tests.ebs.limits import Rates
from tests.ebs.target import Target

log = logging.getLogger(__name__)

_DEFAULT_SOCKET = "/run/ebs-target.sock"
_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def main(argv: list[str] | None = None) -> int:
    arguments = vars(_build_parser().parse_args(argv))
    command, control = arguments.pop("command"), arguments.pop("control")
    try:
        if command == "serve":
            asyncio.run(_serve(control, **arguments))
            return 0
        given = {name: value for name, value in arguments.items() if value is not None}
        done = call(control, command, **given)
    except (TargetError, OSError) as error:
        sys.stderr.write(f"{command}: {error}\n")
        return 1
    if done is not None:
        sys.stdout.write(json.dumps(done, indent=1) + "\n")
    return 0


async def _serve(
    control: Path,
    *,
    directory: Path,
    listen: tuple[str, int],
    connect: bool,
    queues: int,
    instance_iops: float | None,
    instance_throughput: int | None,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    address, port = listen
    target = Target(
        directory,
        address=address,
        port=port,
        host=LinuxHost(HostOptions(queues=queues)) if connect else None,
        instance_rates=Rates(instance_iops, instance_throughput),
    )
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with target, serve_control(target, control):
        log.info("controlled by %s", control)
        await stopping.wait()


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m tests.ebs", description="Volumes that behave like EBS's."
    )
    parser.add_argument(
        "--control",
        type=Path,
        default=Path(os.environ.get("EBS_TARGET_SOCKET", _DEFAULT_SOCKET)),
        help="the control socket (default: EBS_TARGET_SOCKET or %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_volume_commands(commands)
    _add_fault_commands(commands)
    assert set(commands.choices) == {"serve", *OPERATIONS}
    return parser


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="serve the volumes of a directory until terminated")
    serve.add_argument("--directory", type=Path, required=True)
    serve.add_argument("--listen", type=_parse_address, default=("127.0.0.1", 4420), metavar="ADDRESS:PORT")
    serve.add_argument(
        "--connect", action="store_true", help="this machine's kernel follows attach, detach and pull"
    )
    serve.add_argument("--queues", type=int, default=1, help="I/O queues of each connected volume")
    serve.add_argument("--instance-iops", type=float)
    serve.add_argument("--instance-throughput", type=_parse_size, metavar="SIZE", help="bytes a second")


def _add_volume_commands(commands: Any) -> None:
    show = commands.add_parser("show", help="what volumes are, and what they have served")
    show.add_argument("volume", nargs="?")
    create = _add(commands, "create", "create a volume, blank or from a snapshot")
    create.add_argument("--size", dest="size_bytes", type=_parse_size)
    create.add_argument("--source", metavar="FILE", help="a snapshot's file")
    create.add_argument("--multi-attach", dest="is_multi_attach", action="store_true", default=None)
    create.add_argument(
        "--paths", dest="has_paths", action="store_true", default=None, help="a multi-path subsystem"
    )
    _add(commands, "delete", "remove a volume and its bytes")
    commands.add_parser("clear", help="pull and remove every volume")
    attach = _add(commands, "attach", "let the host find the volume")
    attach.add_argument("--size", dest="size_bytes", type=_parse_size, help="create it first, if need be")
    attach.add_argument("--device-name", metavar="/dev/sdX")
    attach.add_argument("--serial")
    _add(commands, "detach", "take it away with the host's consent")
    _add(commands, "pull", "take it away without warning")
    _add(commands, "return", "attach it again under its device name").add_argument("--serial")
    sever = _add(commands, "sever", "break its connections; the host reconnects")
    sever.add_argument("--until-healed", action="store_true", default=None, help="but not before that")
    grow = _add(commands, "grow", "make it larger and tell the host")
    grow.add_argument("size_bytes", type=_parse_size, metavar="SIZE")
    _add(commands, "snapshot", "copy its bytes to a file").add_argument("path", metavar="FILE")
    limit = commands.add_parser("limit", help="limit a volume, or the instance where none is named")
    limit.add_argument("volume", nargs="?")
    limit.add_argument("--iops", type=float)
    limit.add_argument("--throughput", dest="throughput_bytes_s", type=_parse_size, metavar="SIZE")


def _add_fault_commands(commands: Any) -> None:
    stall = _add(commands, "stall", "hold every command, now or after a number of them")
    stall.add_argument("--after", type=int)
    stall.add_argument(
        "--operations", nargs="+", choices=[each.value for each in Operation], help="count these alone"
    )
    stall.add_argument("--admin", action="store_true", default=None, help="hold identify and log pages too")
    _add(commands, "resume", "serve what a stall held")
    slow = _add(commands, "slow", "delay every command")
    slow.add_argument("delay_s", type=float, metavar="SECONDS")
    fail = _add(commands, "fail", "fail commands that touch a range of bytes")
    names = ", ".join(_status_name(status) for status in Status if status >= Status.LBA_OUT_OF_RANGE)
    fail.add_argument("--status", type=_parse_status, help=f"a number, or one of {names}")
    fail.add_argument("--operations", nargs="+", choices=[each.value for each in Operation])
    fail.add_argument("--first", type=_parse_size, metavar="BYTE")
    fail.add_argument("--end", type=_parse_size, metavar="BYTE")
    fail.add_argument("--count", type=int, help="how many commands, then it heals")
    fail.add_argument("--retryable", dest="is_final", action="store_false", default=None)
    spoil = _add(commands, "spoil", "spoil the statistics log page, or mend it with no option")
    spoil.add_argument("--magic", type=_parse_number)
    spoil.add_argument("--bin-count", type=_parse_number)
    spoil.add_argument("--kept-bytes", type=_parse_number)
    spoil.add_argument("--status", type=_parse_status)
    _add(commands, "heal", "remove every fault")


def _add(commands: Any, name: str, what: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what)
    parser.add_argument("volume", metavar="VOLUME")
    return parser


def _parse_size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]iB)?", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: a number of bytes, or with KiB, MiB, GiB, TiB"
        )
    return int(match[1]) * _UNITS[match[2] or ""]


def _parse_address(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    if not address or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT")
    return address, int(port)


def _parse_number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _parse_status(text: str) -> int:
    by_name = {_status_name(status): int(status) for status in Status}
    return by_name[text] if text in by_name else _parse_number(text)


def _status_name(status: Status) -> str:
    return status.name.lower().replace("_", "-")


if __name__ == "__main__":
    sys.exit(main())
