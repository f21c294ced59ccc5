"""A bundle whose agent is a few lines long, and a directory that stands in for a node.

The shell scripts run as they are; what they start is this agent, this installer of wheels and this systemctl.
What is attached the agent finds in volumes.json, and in the policy, an entry a line, what of it is wanted.
Each call of a program that changes something is counted, and the script can be killed at any of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

from scripts.bundle import archive

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "lifecycle_scripts"

AGENT = """
import json, os, re, sys
from pathlib import Path

VERSION, IS_BROKEN = {version!r}, {is_broken!r}
dest = Path(os.environ["EBS_AGENT_DESTDIR"])
running, volumes, policy = dest / "running", dest / "volumes.json", dest / "etc/ebs-agent/policy.yaml"
starts = dest / "starts"
ENTRY = re.compile(r"^ *- {{name: ([a-z]+)(?:, match: {{volume_id: (vol-[0-9a-z]+)}})?", re.MULTILINE)
USABLE = {{"Ready", "Degraded"}}

def look():
    # Volumes: those that are attached, and then entries without one.
    version, begun = running.read_text(), len(starts.read_text())
    attached = [
        {{**one, "name": one["volume_id"] if one.get("is_kubelets") else None}}
        for one in json.loads(volumes.read_text())
        if begun < one.get("leaves_at_start", begun + 1)
    ]
    missing = []
    for name, volume_id in ENTRY.findall(policy.read_text()):
        free = (one for one in attached if not one["name"] and volume_id in ("", one["volume_id"]))
        one = next((one for one in free if version not in one.get("unknown_to", ())), None)
        if one is None:
            missing.append({{"name": name, "volume_id": volume_id or None, "condition": "Pending"}})
        else:
            one["name"] = name
    for one in attached:
        if version in one.get("fails_with", ()):
            one["condition"] = "Failed"
        if not one["name"]:
            one["condition"] = "Unmanaged"
    for one in missing:
        if one["volume_id"] in [other["volume_id"] for other in attached]:
            one["volume_id"] = None
    return attached, missing

def reads(path):
    # A policy may say which version it needs at least: an older one does not know a key in it.
    text = Path(path).read_text()
    needed = text.partition("# for the fake: needs ")[2][:3]
    return "nonsense" not in text and needed <= VERSION

match sys.argv[1:]:
    case ["--version"]:
        print(VERSION)
    case ["run"]:
        if IS_BROKEN or not reads(dest / "etc/ebs-agent/policy.yaml"):
            sys.exit(1)
        running.write_text(VERSION)
        with starts.open("a") as log:
            log.write(".")
    case ["check", path]:
        sys.exit(0 if reads(path) else 2)
    case ["check", "--json", path]:
        text = Path(path).read_text()
        if IS_BROKEN or "nonsense" in text or not text:
            sys.exit(2)
        print(json.dumps({{"required": ["a"] if "# for the fake: required" in text else []}}))
    case ["status", *_]:
        if not running.exists():
            sys.exit(4)
        attached, missing = look()
        print(json.dumps({{"version": running.read_text(), "volumes": attached + missing}}))
    case ["wait", *words]:
        if not running.exists():
            sys.exit(4)
        if "--leave-creation" in sys.argv and (dest / "old").exists():
            sys.exit(2)
        names = words[: words.index("--timeout")]
        attached, missing = look()
        meant = [v for v in attached + missing if v["name"] in names or v["volume_id"] in names]
        if not names:
            meant = [v for v in attached if v["name"]]
        unknown = set(names) - {{word for v in meant for word in (v["name"], v["volume_id"])}}
        if unknown:
            sys.exit(2)
        unready = [v for v in meant if v["condition"] not in USABLE]
        if "--leave-creation" in sys.argv:
            unready = [v for v in unready if not v.get("waits_for_cluster")]
        sys.exit(3 if unready else 0)
    case ["reload"]:
        pass
    case ["withdraw", option]:
        staged, sockets = dest / "staged", dest / "sockets"
        if option == "--check" and staged.exists():
            sys.exit(5)
        if option == "--force":
            assert not running.exists(), "the agent would put them up again"
            sockets.unlink(missing_ok=True)
    case other:
        sys.exit(f"unexpected: {{other}}")
"""

INSTALL_WHEELS = """
import sys, sysconfig
from pathlib import Path

site = Path(sysconfig.get_path("purelib"))
(site / "agent_stub.py").write_text((Path(__file__).parent / "wheels" / sys.argv[1]).read_text())
faces = ("cloud/aws_worker/main", "report/web/main", "report/broker/main", "report/mqtt/client")
faces += ("cloud/identity/metadata_main", "report/hook_main", "report/web/listen_main")
for name in ("daemon", "cli/app", *faces):
    module = site / "agent" / f"{name}.py"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.touch()
program = Path(sys.prefix) / "bin" / "ebs-agent"
program.write_text(f"#!{sys.executable}\\nimport agent_stub\\n")
program.chmod(0o755)
"""

SYSTEMCTL = """
case "$*" in
    *"restart ebs-agent.service") rm -f "$dest/running"; "$dest/opt/ebs-agent/current/bin/ebs-agent" run ;;
    *"reload ebs-agent.service") [[ -e $dest/running && ! -e $dest/refuses ]] ;;
    *"is-active ebs-agent.service") [[ -e $dest/running ]] ;;
    *is-enabled*) [[ -e $dest/enabled ]] ;;
    *disable*) rm -f "$dest/running" "$dest/enabled" ;;
    *enable*) touch "$dest/enabled" ;;
    *"stop ebs-agent-cloud@*.service ebs-agent-hook@*.service ebs-agent-listen@*.service "*) ;;
    *daemon-reload | *reset-failed* | "--no-block start ebs-volumes.target") ;;
    *) echo "unexpected: systemctl $*" >&2; exit 1 ;;
esac
"""

COUNTED = ("mv", "cp", "sync", "ln", "install", "rm", "mkdir")
"""Programs of the system's own that change something; the stand-ins call them."""


class Node:
    """A directory that the scripts take for a node's root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stubs = root / "stubs"
        self._stubs.mkdir(parents=True)
        self.search_path = f"{self._stubs}:/usr/sbin:/usr/bin:/sbin:/bin"
        self._settings = {
            "EBS_AGENT_DESTDIR": str(root),
            "EBS_AGENT_PYTHON": sys.executable,
            "EBS_AGENT_RETRY_S": "0",
            "EBS_AGENT_FAILURE_SLEEP_S": "0",
            "TMPDIR": str(root),
        }
        (root / "volumes.json").write_text("[]")
        self._write_stub("systemctl", SYSTEMCTL)
        for name in COUNTED:
            # A sync that is not waited for: no machine loses its power here, and the disk has other work.
            # A hundred times in each script: by a shell that starts in a third of bash's time.
            self._write_stub(
                name, ":" if name == "sync" else f'exec {shutil.which(name)} "$@"', interpreter="sh"
            )
        for name in ("groupadd", "useradd", "groupdel", "userdel", "journalctl", "getent", "logger"):
            self._write_stub(name, "cat >/dev/null </dev/stdin" if name == "logger" else ":")

    @property
    def home(self) -> Path:
        """Where releases are."""
        return self.root / "opt/ebs-agent"

    @property
    def policy(self) -> Path:
        """The policy in force."""
        return self.root / "etc/ebs-agent/policy.yaml"

    @property
    def release(self) -> str | None:
        """The release in force."""
        link = self.home / "current"
        return str(link.readlink()) if link.is_symlink() else None

    @property
    def running(self) -> str | None:
        """The version of the agent that runs."""
        path = self.root / "running"
        return path.read_text() if path.exists() else None

    def list_releases(self) -> list[str]:
        """Return the complete ones."""
        return sorted(
            path.parent.name for path in self.home.glob("*/.complete") if path.parent.name != "current"
        )

    def count_calls(self, words: str = "") -> int:
        """Return how many counted programs were called with these words."""
        log = self.root / "calls"
        return sum(words in line for line in log.read_text().splitlines()) if log.exists() else 0

    def run(
        self, script: Path, *arguments: str, kill_at: int = 0, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, or to the call at which it is killed with all it started."""
        return subprocess.run(
            ["setsid", "--wait", "bash", str(script), *arguments],
            env={**self._make_environment(kill_at), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def start(self, script: Path) -> subprocess.Popen[str]:
        """Start a script beside others."""
        return subprocess.Popen(
            ["bash", str(script)],
            env=self._make_environment(0),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def add_program(self, name: str, script: str) -> None:
        """Add a program, or replace one of the system's; ``$dest`` is the node's root."""
        self._write_stub(name, script)

    def hide_programs(self, *patterns: str) -> None:
        """Have the node lack programs of the system's whose names match, and have its own search path."""
        shown = self.root / "shown"
        shown.mkdir()
        for directory in (Path("/usr/bin"), Path("/bin"), Path("/usr/sbin"), Path("/sbin")):
            for program in directory.iterdir():
                is_hidden = any(fnmatch(program.name, pattern) for pattern in patterns)
                if not is_hidden and not (shown / program.name).exists():
                    (shown / program.name).symlink_to(program)
        self.search_path = f"{self._stubs}:{shown}"
        self._settings.pop("EBS_AGENT_PYTHON")

    def go_back_to(self, version: str, policy: str) -> None:
        """Have that release in force, as if no other had ever been there."""
        for name in self.list_releases():
            if name != version:
                shutil.rmtree(self.home / name)
        (self.home / "current").unlink()
        (self.home / "current").symlink_to(version)
        (self.root / "running").write_text(version)
        self.policy.write_text(policy)

    def _make_environment(self, kill_at: int) -> dict[str, str]:
        (self.root / "countdown").write_text(str(kill_at))
        return {
            **self._settings,
            "PATH": self.search_path,
            "EBS_AGENT_SEARCH_PATH": self.search_path,
        }

    def _write_stub(self, name: str, script: str, *, interpreter: str = "bash") -> None:
        """Write a program that logs its call, ends everything if it is its turn, and does its work."""
        countdown = """
            read -r left <"$dest/countdown"
            if [ "$left" -gt 0 ]; then
                echo $((left - 1)) >"$dest/countdown"
                [ "$left" -gt 1 ] || kill -KILL 0
            fi"""
        path = self._stubs / name
        path.write_text(
            f'#!/bin/{interpreter}\ndest={self.root}\necho {name} "$*" >>$dest/calls\n'
            f"{countdown if name in (*COUNTED, 'systemctl') else ''}\n{script}\n"
        )
        path.chmod(0o755)


def make_folder(
    directory: Path,
    version: str,
    *,
    policy: str | None = None,
    is_broken: bool = False,
    agent: str | None = None,
) -> Path:
    """Make what lies in S3, with a bundle of that version, and return its on_create.sh.

    ``agent``: a program in Python in the place of the fake one.
    """
    directory.mkdir(parents=True)
    machine = os.uname().machine
    root = directory / f"ebs-agent-{version}-{machine}"
    house = root / "wheels"
    house.mkdir(parents=True)
    (house / "agent.py").write_text(agent or AGENT.format(version=version, is_broken=is_broken))
    (house / "{}.{}.txt".format(*sys.version_info)).write_text("agent.py\n")
    (root / "install_wheels.py").write_text(INSTALL_WHEELS)
    for script in SCRIPTS.glob("*.sh"):
        if script.name != "on_create.sh":
            shutil.copy(script, root)
    for name in ("systemd", "docs"):
        shutil.copytree(REPOSITORY / name, root / name)
    shutil.copytree(SCRIPTS / "hooks.d", root / "hooks.d")
    for name, text in (("VERSION", f"{version}\n"), ("sbom.cdx.json", "{}"), ("requirements.txt", "")):
        (root / name).write_text(text)
    archive.write_sums(root)
    archive.pack(root, directory / f"{root.name}.tar.gz")
    shutil.rmtree(root)
    shutil.copy(SCRIPTS / "on_create.sh", directory)
    if policy is not None:
        (directory / "policy.yaml").write_text(policy)
    return directory / "on_create.sh"
