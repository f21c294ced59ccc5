"""The instance metadata service of one emulated instance: who it is, and its role's credentials."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import Self, override

from tests.aws.cloud import ACCOUNT, REGION, ZONE

ROLE_KEY = "AKIAOFTHENODESROLE00"
"""What the node's calls are signed with."""


class Metadata:
    """``with Metadata() as metadata: … metadata.endpoint …``; it answers once ``instance_id`` is set."""

    def __init__(self) -> None:
        self.instance_id: str | None = None
        self.user_data = b""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str) -> str | None:
        """Return what is at a path, None where there is nothing."""
        credentials = {
            "Code": "Success",
            "Type": "AWS-HMAC",
            "AccessKeyId": ROLE_KEY,
            "SecretAccessKey": "emulated",
            "Token": "emulated",
            "LastUpdated": "2026-01-01T00:00:00Z",
            "Expiration": "2099-01-01T00:00:00Z",
        }
        document = {
            "accountId": ACCOUNT,
            "availabilityZone": ZONE,
            "instanceId": self.instance_id,
            "instanceType": "m5.large",
            "region": REGION,
        }
        answers = {
            "/latest/dynamic/instance-identity/document": json.dumps(document),
            "/latest/meta-data/instance-id": self.instance_id,
            "/latest/meta-data/services/partition": "aws",
            "/latest/meta-data/placement/region": REGION,
            "/latest/meta-data/placement/availability-zone": ZONE,
            "/latest/meta-data/iam/security-credentials/": "nodes",
            "/latest/meta-data/iam/security-credentials/nodes": json.dumps(credentials),
        }
        return answers.get(path) if self.instance_id else None

    def _make_handler(metadata) -> type[BaseHTTPRequestHandler]:  # noqa: N805 -- the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                self._say("a-token" if self.path == "/latest/api/token" else None)

            def do_GET(self) -> None:
                has_token = self.headers.get("X-aws-ec2-metadata-token") == "a-token"
                self._say(metadata.answer(self.path) if has_token else None)

            def _say(self, text: str | None) -> None:
                body = (text or "").encode()
                self.send_response(404 if text is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            @override
            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: the tests' own output matters."""

        return Handler
