"""Guests for work by hand: ``python -m tests.vm.guest up``, ``run``, ``sync``, ``shell``, ``down``."""

# ruff: noqa: T201 - what a command prints is what it is for

from __future__ import annotations

import argparse
import os
import select
import shutil
import socket
import sys
import termios
import time
import tty
from pathlib import Path

from tests.vm.guest.agent_disk import REPOSITORY
from tests.vm.guest.errors import GuestError
from tests.vm.guest.guest import Guest, GuestOptions
from tests.vm.guest.image import get_image
from tests.vm.guest.settings import CACHE

LEAVE_SHELL = b"\x1d"  # Ctrl-]
GUEST_REPOSITORY = "/scratch/repo"
SYNCED = ("agent", "tests", "pyproject.toml", "README.md", "LICENSE")


def main() -> int:
    """Run one subcommand and return its exit status."""
    arguments = build_parser().parse_args()
    try:
        return int(arguments.action(arguments))
    except GuestError as error:
        print(error, file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.guest", description=__doc__)
    parser.add_argument(
        "--name", default="default", help="which guest, when there are several (default: %(default)s)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    image = commands.add_parser(
        "image", help="build the root image, unless it is there, and print where it is"
    )
    image.set_defaults(action=build_image)

    up = commands.add_parser("up", help="boot a fresh guest and leave it running")
    up.add_argument("--agent", action="store_true", help="with the agent in /opt/ebs-agent/current")
    up.add_argument("--network", action="store_true", help="with a network card, unconfigured")
    up.add_argument("--kernel-arg", action="append", default=[], help="a word for the kernel's command line")
    up.add_argument("--release", default=GuestOptions.release, help="of Debian (default: %(default)s)")
    up.add_argument("--memory", type=int, default=GuestOptions.memory_mib, metavar="MIB")
    up.set_defaults(action=boot_guest)

    run = commands.add_parser("run", help="run a command as root: run -- CMD ARG…")
    run.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS")
    run.add_argument("argv", nargs="+")
    run.set_defaults(action=run_command)

    sync = commands.add_parser(
        "sync", help=f"copy the working tree to {GUEST_REPOSITORY} and refresh the agent"
    )
    sync.set_defaults(action=sync_tree)

    put = commands.add_parser("put", help="copy a file into the guest")
    put.add_argument("source", type=Path)
    put.add_argument("destination")
    put.set_defaults(action=put_file)

    get = commands.add_parser("get", help="print a file of the guest")
    get.add_argument("source")
    get.set_defaults(action=get_file)

    for name, action, text in (
        ("shell", open_shell, "the guest's console; Ctrl-] leaves it"),
        ("console", show_console, "print what the console showed"),
        ("reboot", reboot_guest, "reboot in good order and wait"),
        ("kill", kill_guest, "take the power away and boot the same disks again"),
        ("down", end_guest, "end the guest and forget its disks"),
    ):
        commands.add_parser(name, help=text).set_defaults(action=action)
    return parser


def guest_directory(arguments: argparse.Namespace) -> Path:
    """Return where the named guest lives."""
    return CACHE / "guests" / str(arguments.name)


def find_guest(arguments: argparse.Namespace) -> Guest:
    """Return the named guest, which must be running."""
    guest = Guest.find(guest_directory(arguments))
    if guest is None:
        raise GuestError(f"no guest named {arguments.name} is running: boot one with `up`")
    return guest


def build_image(_arguments: argparse.Namespace) -> int:
    """Build the root image."""
    print(get_image().directory)
    return 0


def boot_guest(arguments: argparse.Namespace) -> int:
    """Boot a guest that stays when this program ends."""
    directory = guest_directory(arguments)
    if Guest.find(directory) is not None:
        raise GuestError(f"a guest named {arguments.name} is running already: end it with `down`")
    shutil.rmtree(directory, ignore_errors=True)
    options = GuestOptions(
        has_agent=arguments.agent,
        has_network=arguments.network,
        kernel_args=tuple(arguments.kernel_arg),
        memory_mib=arguments.memory,
        release=arguments.release,
        outlives_us=True,
    )
    started = time.monotonic()
    guest = Guest.boot(options, directory=directory)
    guest.detach()
    print(f"up after {time.monotonic() - started:.1f} s in {directory}")
    return 0


def run_command(arguments: argparse.Namespace) -> int:
    """Run a command with our standard input, unless that is a terminal, and pass on its output and status."""
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    done = find_guest(arguments).run(arguments.argv, check=False, timeout_s=arguments.timeout, stdin=stdin)
    sys.stdout.buffer.write(done.stdout)
    sys.stdout.flush()
    sys.stderr.buffer.write(done.stderr)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def sync_tree(arguments: argparse.Namespace) -> int:
    """Copy the working tree in, and into the agent's venv where the guest has one."""
    guest = find_guest(arguments)
    names = [name for name in SYNCED if (REPOSITORY / name).exists()]
    guest.put_tree(REPOSITORY, GUEST_REPOSITORY, names=names)
    if guest.options.has_agent:
        guest.refresh_agent()
    return 0


def put_file(arguments: argparse.Namespace) -> int:
    """Copy a file in, with its mode."""
    source: Path = arguments.source
    find_guest(arguments).put(arguments.destination, source.read_bytes(), mode=source.stat().st_mode & 0o777)
    return 0


def get_file(arguments: argparse.Namespace) -> int:
    """Print a file."""
    sys.stdout.buffer.write(find_guest(arguments).get(arguments.source))
    return 0


def open_shell(arguments: argparse.Namespace) -> int:
    """Connect this terminal to the guest's serial console."""
    guest = find_guest(arguments)
    # Not started at boot, where a login costs seconds that only this command needs.
    guest.shell("udevadm trigger --settle /dev/ttyS0; systemctl start serial-getty@ttyS0")
    guest.detach()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        console.connect(str(guest.directory / "console.sock"))
        size = shutil.get_terminal_size()
        console.sendall(f"stty rows {size.lines} cols {size.columns}\n".encode())
        pass_terminal(console)
    return 0


def pass_terminal(console: socket.socket) -> None:
    """Pass keys and output between this terminal and a socket until the leaving key or the guest's end."""
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    try:
        while True:
            readable, _, _ = select.select([terminal, console], [], [])
            if console in readable:
                output = console.recv(65536)
                if not output:
                    return
                os.write(sys.stdout.fileno(), output)
            if terminal in readable:
                keys = os.read(terminal, 1024)
                if LEAVE_SHELL in keys or not keys:
                    return
                console.sendall(keys)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def show_console(arguments: argparse.Namespace) -> int:
    """Print the console log."""
    print(find_guest(arguments).read_console(1 << 20))
    return 0


def reboot_guest(arguments: argparse.Namespace) -> int:
    """Reboot."""
    find_guest(arguments).reboot()
    return 0


def kill_guest(arguments: argparse.Namespace) -> int:
    """Take the power away and start again."""
    guest = find_guest(arguments)
    guest.kill()
    guest.start()
    guest.detach()
    return 0


def end_guest(arguments: argparse.Namespace) -> int:
    """End the guest and remove its directory."""
    guest = Guest.find(guest_directory(arguments))
    if guest is not None:
        guest.close()
    shutil.rmtree(guest_directory(arguments), ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
