from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from agent.base.paths import Paths
from agent.cli.client import Client, NoAnswerError
from agent.cli.doctor import collect as collecting
from agent.cli.doctor.collect import Collected, collect, read_file, run_command
from agent.cli.doctor.findings import Finding, Grade
from agent.cli.doctor.withhold import withhold
from agent.core.errors import AgentError
from agent.report.endpoints.redaction import WITHHELD

SECRETS = {
    "AKIAIOSFODNN7EXAMPLE": b"found AKIAIOSFODNN7EXAMPLE here",
    "wJalrXUtnFEMI/K7MDENG": b"Environment=AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG",
    "FQoGZXIvYXdzE": b'{"SessionToken" : "FQoGZXIvYXdzE"}',
    "hunter2": b"mqtt: {username: node, password: hunter2}",
    "correcthorse": b"https://user:correcthorse@broker.example/",
    "eyJhbGciOi": b"Authorization: Bearer eyJhbGciOi.J9",
    "MIIEvQIBADAN": b"-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\n-----END PRIVATE KEY-----",
    "MIIEvgIBADAN": b"-----BEGIN EC PRIVATE KEY-----\nMIIEvgIBADAN\n",
    "123456789012": b"arn:aws:iam::123456789012:role/node",
    "xoxb-slack": b"curl -H api_key=xoxb-slack",
    "battery": b'mqtt: {username: node, password: "horse battery"}',
    "stapled": b"mqtt:\n  password: horse stapled\n",
    "blocked": b"mqtt:\n  password: |\n    horse\n\n    blocked\n  host: broker\n",
    "commas": b"password=horse,commas;and&more",
    "escaped": rb'{"password": "horse\" escaped"}',
    "opted": b"ExecStart=/bin/publish --mqtt-password opted --host broker",
    "curled": b"curl -s -u node:curled https://broker",
    "loaded": b"SetCredential=mqtt:loaded of secrets\n",
    "short_pass": b"Environment=MQTT_PASS=short_pass",
    "keyed": b"AWS_SECRET_KEY=keyed",
    "stringed": b'"SecretString":"stringed"',
    "Z2hvc3Q": b"client-key-data: LS0tLS1CRUdJTiZ2hvc3Q=",
    "at_sign": b"HTTPS_PROXY=http://node:p@at_sign@proxy:3128",
    "only_user": b"git clone https://only_user@git.example/",
    "no_user": b"redis://:no_user@cache:6379",
    "digested": b'Authorization: Digest username="node", response="digested"',
    "signed": b"https://b.s3.amazonaws.com/o?X-Amz-Signature=signed",
    "eyJhbGciOiJIUzI1NiJ9": b"got eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln from it",
    "beheaded": b"beheaded\n-----END RSA PRIVATE KEY-----\nrest",
}


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("as_json", [False, True])
def test_secrets_are_withheld(secret: str, *, as_json: bool) -> None:
    """Whatever form they have in what others wrote; that there was something is still to be seen."""
    found = SECRETS[secret]
    said = withhold({"volumes": [{"message": found.decode()}]} if as_json else found)
    assert secret not in said
    assert WITHHELD in said


@pytest.mark.parametrize(
    "told",
    [
        "password_file: /etc/ebs-agent/mqtt-password",
        "size_bytes: 107374182400 bytes",
        "vol-0123456789abcdef0",
    ],
)
def test_what_a_report_is_read_for_stays(told: str) -> None:
    """Names of files, sizes and volumes."""
    assert withhold(told.encode()) == told


@pytest.mark.parametrize(
    "content",
    [
        {"annotations": {"example.com/token": "s3cret words"}},
        {"command": ["publish", "--password", "s3cret words"]},
        {"password": 5368709120, "text": 'password: "5368709120 \\" 5368709120"'},
    ],
)
def test_values_of_secret_names_are_withheld(content: dict[str, Any]) -> None:
    """Whole, whatever is in them; and what is written stays JSON."""
    said = withhold(content)
    assert json.loads(said).keys() == content.keys()
    assert WITHHELD in said
    assert not any(secret in said for secret in ("s3cret", "words", "5368709120"))


def test_long_texts_take_no_square_of_their_length() -> None:
    """Whoever writes to the journal cannot hold the report up."""
    for evil in ("a-" * 200_000, "secret" * 60_000, "--" * 200_000, "://" * 100_000, " " * 400_000):
        assert len(withhold(evil.encode())) > 1000


class Agent(Client):
    """One that answers, and has seen a secret."""

    @override
    def status(self) -> dict[str, Any]:
        return {"volumes": [{"size_bytes": 107374182400, "message": "token=s3cret"}]}

    @override
    def plan(self) -> dict[str, Any]:
        raise NoAnswerError("It does not answer, token=s3cret.")

    @override
    def events(self, *, follow: bool = False) -> Iterator[dict[str, Any]]:
        assert not follow
        yield {"event": "volume.ready"}
        raise RecursionError


def collect_from(tmp_path: Path, run: collecting.Run) -> tuple[Collected, dict[str, str]]:
    paths = Paths(tmp_path / "root")
    (paths.state / "volumes").mkdir(parents=True)
    (paths.state / "volumes/vol-0.json").write_text("{}")
    (paths.state / "link").symlink_to("/etc/shadow")
    target = tmp_path / "report.tar.gz"
    findings = [Finding("kernel", Grade.OK, "6.1")]
    collected = collect(target, paths, Agent(paths.socket), findings, run)
    with tarfile.open(target) as archive:
        parts = {
            member.name.removeprefix("ebs-agent-doctor/"): file.read().decode()
            for member in archive.getmembers()
            if (file := archive.extractfile(member)) is not None
        }
    return collected, parts


def test_all_that_can_be_had_is_in_one_archive(tmp_path: Path) -> None:
    """It is for its owner alone; what could not be had is named, and hinders nothing else."""

    def run(argv: Sequence[str]) -> bytes:
        if argv[0] == "lsblk":
            raise subprocess.TimeoutExpired(argv, 20)
        return f"{argv[0]} password=abc\n".encode()

    collected, parts = collect_from(tmp_path, run)
    assert sorted(parts) == collected.parts
    assert (tmp_path / "report.tar.gz").stat().st_mode & 0o777 == 0o600
    assert "107374182400" in parts["agent/status.json"]
    assert "vol-0.json" in parts["notes.json"]
    assert "link" not in parts["notes.json"]
    assert parts["journal/agent.txt"] == f"journalctl password={WITHHELD}\n"
    assert not any("s3cret" in part or "=abc" in part for part in parts.values())
    assert {
        "agent/plan.json",
        "agent/events.json",
        "policy.yaml",
        "hooks.json",
        "node/block-devices.json",
    } <= set(collected.missing)
    assert all(name in parts["missing.txt"] for name in collected.missing)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A file that is there is somebody's."""
    collect_from(tmp_path, lambda _: b"")
    before = (tmp_path / "report.tar.gz").read_bytes()
    with pytest.raises(AgentError, match="exists already"):
        collect(tmp_path / "report.tar.gz", Paths(tmp_path), Agent(tmp_path), [], lambda _: b"")
    assert (tmp_path / "report.tar.gz").read_bytes() == before


def test_a_program_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a broken node holds the report up."""
    monkeypatch.setattr(collecting, "COMMAND_TIMEOUT_S", 0.05)
    with pytest.raises(subprocess.TimeoutExpired):
        run_command(("sleep", "600"))
    monkeypatch.undo()
    assert run_command(("sh", "-c", "echo said; exit 3")) == b"said\n"


def test_of_what_has_no_end_the_last_lines_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much a program prints; and whoever prints for ever is ended."""
    monkeypatch.setattr(collecting, "MAX_BYTES", 10)
    assert run_command(("printf", r"password=abc\\n%s", "12345\n678\n")) == b"678\n"
    monkeypatch.setattr(collecting, "COMMAND_TIMEOUT_S", 0.05)
    with pytest.raises(subprocess.TimeoutExpired):
        run_command(("yes",))


def test_files_that_are_none_are_not_read(tmp_path: Path) -> None:
    """A pipe that nobody writes to, and a device without an end, hold nothing up."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="is no regular file"):
            read_file(path)
    assert read_file(Path("/proc/self/mountinfo"))


def test_what_could_not_be_written_whole_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full filesystem leaves no half of an archive in the way of the next."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", fail)
    with pytest.raises(AgentError, match="No space left"):
        collect_from(tmp_path, lambda _: b"")
    assert not (tmp_path / "report.tar.gz").exists()
