"""Where the worker's credentials come from, and that it looks again where there were none or bad ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.exceptions
import pytest

from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.aws_worker.main import Caller
from agent.cloud.errors.credential_rules import OF_CREDENTIALS

NAMES = (
    "ACCESS_KEY_ID",
    "SECRET_ACCESS_KEY",
    "SESSION_TOKEN",
    "PROFILE",
    "ROLE_ARN",
    "WEB_IDENTITY_TOKEN_FILE",
)
CONTAINER = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
ROLE = "/latest/meta-data/iam/security-credentials/"
NONE_FOUND = "<DescribeVolumesResponse><volumeSet/></DescribeVolumesResponse>"
REFUSED = "<Response><Errors><Error><Code>{}</Code><Message>no</Message></Error></Errors></Response>"


class Instance:
    """Instance metadata, and EC2, which takes the calls that are signed with one key."""

    def __init__(self) -> None:
        self.is_busy = False
        """Metadata answers 503."""
        self.key = "AKIAFIRST"
        self.accepted = "AKIAFIRST"
        self.code = "AuthFailure"
        self.asked = 0

    def answer(self, method: str, path: str, signature: str) -> tuple[int, str]:
        if path == "/":
            self.asked += 1
            is_good = f"Credential={self.accepted}/" in signature
            return (200, NONE_FOUND) if is_good else (401, REFUSED.format(self.code))
        if self.is_busy:
            return 503, ""
        if method == "PUT":
            return 200, "token"
        if path == ROLE:
            return 200, "execution"
        expiration = f"{datetime.now(timezone.utc) + timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}"
        words = {"Code": "Success", "AccessKeyId": self.key, "SecretAccessKey": "s", "Token": "t"}
        return 200, json.dumps({**words, "Expiration": expiration})


@pytest.fixture
def instance() -> Instance:
    return Instance()


@pytest.fixture
def endpoint(instance: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give what answers for both, in an environment that has no other credentials."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            signature = self.headers.get("Authorization", "")
            status, body = instance.answer(str(self.command), self.path, signature)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_PUT = do_POST = do_GET  # noqa: N815 - http.server's names

        def log_message(self, *_words: object) -> None:
            pass

    for name in (*(f"AWS_{one}" for one in NAMES), *CONTAINER, "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield address
        server.shutdown()
        thread.join()


def ask(caller: Caller) -> object:
    return caller.call(DescribeVolumes, {})


def test_metadata_that_failed_once_is_asked_again(instance: Instance, endpoint: str) -> None:
    """A worker whose first look for credentials met a busy metadata service has them at the next call."""
    caller = Caller("us-west-2", endpoint)
    instance.is_busy = True
    for _ in range(2):
        with pytest.raises(botocore.exceptions.NoCredentialsError):
            ask(caller)
    instance.is_busy = False
    assert ask(caller) == {"Volumes": []}
    assert instance.asked == 1, "what cannot be signed is not sent"


@pytest.mark.parametrize("code", ["AuthFailure", "ExpiredToken", "InvalidClientTokenId"])
def test_credentials_that_aws_refuses_are_not_kept(
    instance: Instance, endpoint: str, tmp_path: Path, code: str
) -> None:
    """A key in a file that somebody replaces is read again once AWS takes the old one no more."""
    instance.code, file = code, tmp_path / "credentials"
    caller = Caller("us-west-2", endpoint)
    for key in ("AKIAFIRST", "AKIASECOND"):
        file.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n", "utf-8")
        if instance.accepted != key:
            instance.accepted = key
            with pytest.raises(botocore.exceptions.ClientError, match=code):
                ask(caller)
        assert ask(caller) == {"Volumes": []}


def test_client_is_kept_for_what_says_nothing_of_credentials(instance: Instance, endpoint: str) -> None:
    """A denied call is no reason to look for others: making a client takes longer than most calls."""
    caller, instance.code, instance.accepted = Caller("us-west-2", endpoint), "UnauthorizedOperation", "none"
    with pytest.raises(botocore.exceptions.ClientError):
        ask(caller)
    instance.is_busy, instance.accepted = True, instance.key
    assert ask(caller) == {"Volumes": []}
    assert "UnauthorizedOperation" not in OF_CREDENTIALS
