"""The emulated cloud over HTTP on loopback: counts calls, limits and breaks them, leaves the rest to moto."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from typing_extensions import Self, override
from werkzeug.serving import BaseWSGIServer, make_server

from tests.aws import instances, keeping
from tests.aws.cloud import Cloud
from tests.aws.copies import copy_volume
from tests.aws.errors import CallError
from tests.aws.faults import Fault, Faults, Kind, TokenBucket, deny
from tests.aws.wildcards import install_wildcards

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

_VOLUME_ID = re.compile(rb"<volumeId>(vol-[0-9a-f]+)</volumeId>")
_SNAPSHOT_ID = re.compile(rb"<snapshotId>(snap-[0-9a-f]+)</snapshotId>")
_SIGNATURE = re.compile(r"Credential=(\w+)/\d+/[^/]*/([a-z0-9-]+)/")
_DESCRIBES = ("DescribeVolumes", "DescribeSnapshots", "DescribeVolumesModifications")
_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
_FILTER_VALUES = 200
"""Most values of all filters of one call. Source: EC2's error code FilterLimitExceeded."""

install_wildcards()


class _QuietHandler(MotoRequestHandler):
    @override
    def log(self, type: str, message: str, *args: Any) -> None:
        """Say nothing: the tests' own output matters."""


class _Dispatcher(DomainDispatcherApplication):
    """Finds the service of a host once; moto lists a folder of some two hundred for each call."""

    def __init__(self) -> None:
        super().__init__(create_backend_app)
        self._services: dict[str | None, Any] = {}

    @override
    def get_backend_for_host(self, host: str | None) -> Any:
        if host not in self._services:
            self._services[host] = super().get_backend_for_host(host)
        return self._services[host]


class AwsServer:
    """``with AwsServer(cloud) as aws: … aws.endpoint …``."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.faults = Faults()
        self.buckets: dict[str, TokenBucket] = {}
        self.calls: Counter[str] = Counter()
        self.may: Callable[[str, str], bool] = lambda _key, _action: True
        """Whether who signs with this key may call this (``ec2:AttachVolume``); S3 is not asked about."""
        self._moto = _Dispatcher()
        self._lock = threading.Lock()
        self._server: BaseWSGIServer | None = None
        self._thread: threading.Thread | None = None

    def renew(self, cloud: Cloud) -> None:
        """Serve another cloud from now on, whole and uncounted."""
        self.cloud = cloud
        self.faults.clear()
        self.buckets.clear()
        self.calls.clear()
        self.may = lambda _key, _action: True

    def __enter__(self) -> Self:
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=_QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="aws", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._server is not None
        assert self._thread is not None
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}"

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        is_json = bool(target)
        parameters: dict[str, Any] = (
            json.loads(body or b"{}")
            if is_json
            else dict(
                parse_qsl(body.decode(errors="replace"))  # of S3 it may be anything
            )
        )
        operation = target.rpartition(".")[2] if is_json else str(parameters.get("Action", ""))
        is_dry_run = parameters.get("DryRun") == "true"
        with self._lock:
            self.calls[f"{operation} (dry run)" if is_dry_run else operation] += 1
            bucket = self.buckets.get(operation)
            is_limited = bucket is not None and not bucket.take()
        try:
            if is_limited:
                raise CallError("RequestLimitExceeded", "Request limit exceeded.", 503)  # noqa: TRY301
            signed = _SIGNATURE.search(environ.get("HTTP_AUTHORIZATION", ""))
            if signed and operation and not self.may(signed[1], f"{signed[2]}:{operation}"):
                denied = deny(operation, f"{signed[2]}:{operation}")
                raise CallError(denied.code, denied.message, denied.status)  # noqa: TRY301
            fault = self.faults.take(operation, is_dry_run=is_dry_run)
            if fault is not None:
                self._break(fault, environ, operation, parameters)
            status, headers, answer = self._serve(environ, operation, parameters)
            if not operation.startswith("Describe"):
                self.cloud.note_change()
        except CallError as error:
            status, headers, answer = _encode_error(error, is_json=is_json)
        start_response(status, headers)
        return [answer]

    def _break(self, fault: Fault, environ: Environ, operation: str, parameters: dict[str, Any]) -> None:
        if fault.kind is Kind.ERROR:
            raise CallError(fault.code, fault.message, fault.status)
        if fault.kind is Kind.LOST_ANSWER:
            self._serve(environ, operation, parameters)
            self.cloud.note_change()
        time.sleep(fault.delay_s)
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError(operation)

    def _serve(
        self, environ: Environ, operation: str, parameters: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        cloud = self.cloud
        check_filters(parameters)
        if cloud.hyperpod.knows(operation):
            answer = json.dumps(cloud.hyperpod.call(operation, parameters)).encode()
            return "200 OK", [("Content-Type", "application/x-amz-json-1.1")], answer
        if operation == "CreateVolume":
            return self._create_volume(environ, parameters)
        if operation in _DESCRIBES:
            with cloud.described():
                return self._pass_on(environ)
        if operation == "ModifyVolume":
            cloud.check_modification(parameters)
        if operation == "DeleteVolume" and parameters.get("DryRun") != "true":
            cloud.check_deletion(parameters["VolumeId"])
        said = self._answer_for_moto(operation, parameters)
        if said is not None:
            whole = f'<{operation}Response xmlns="{_NAMESPACE}">{said}</{operation}Response>'
            return "200 OK", [("Content-Type", "text/xml")], whole.encode()
        if operation == "DeleteSnapshot":
            cloud.keeping.check_deletion(parameters["SnapshotId"], cloud.now())
        served = self._pass_on(environ)
        if served[0].startswith("200"):
            self._follow(operation, parameters, served[2])
        return served

    def _answer_for_moto(self, operation: str, parameters: dict[str, Any]) -> str | None:
        """Return what the answer to a call holds, as XML, that moto knows nothing of; None of others."""
        if operation == "DescribeInstanceTypes" and parameters.get("DryRun") == "true":
            message = "Request would have succeeded, but DryRun flag is set."
            raise CallError("DryRunOperation", message, 412)
        if operation in instances.OPERATIONS:
            return instances.call(self.cloud, operation, parameters)
        if operation in keeping.OPERATIONS:
            return self.cloud.keeping.call(operation, parameters, self.cloud.now())
        if operation == "DescribeVolumeStatus":
            return self.cloud.checks.describe(parameters, self.cloud.volumes)
        if operation == "CopyVolumes":
            return copy_volume(self.cloud, parameters)
        return None

    def _create_volume(
        self, environ: Environ, parameters: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        cloud = self.cloud
        asked = {name: value for name, value in parameters.items() if name != "ClientToken"}
        with cloud.lock:
            known = cloud.find_by_token(parameters["ClientToken"], asked)
            if known is not None:
                return "200 OK", [("Content-Type", "text/xml")], self._describe_as_created(known)
            cloud.check_room(parameters["AvailabilityZone"])
            served = self._pass_on(environ)
            found = _VOLUME_ID.search(served[2])
            if found is None:
                return served
            volume_id = found[1].decode()
            cloud.tokens[parameters["ClientToken"]] = (asked, volume_id)
            cloud.adopt_volume(volume_id)
            if asked.get("KmsKeyId") in cloud.broken_keys:
                cloud.volumes.pop(volume_id)
                return served
        volume = cloud.volumes[volume_id]
        cloud.hooks.create(volume_id, volume.size, volume.snapshot_id)
        return served

    def _describe_as_created(self, volume_id: str) -> bytes:
        """Answer CreateVolume again for a token whose volume is there."""
        volume = self.cloud.volumes[volume_id]
        return (
            '<CreateVolumeResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<requestId>again</requestId><volumeId>{volume_id}</volumeId><size>{volume.size}</size>"
            f"<availabilityZone>{volume.zone.name}</availabilityZone><status>{volume.status}</status>"
            f"<volumeType>{volume.volume_type}</volumeType></CreateVolumeResponse>"
        ).encode()

    def _follow(self, operation: str, parameters: dict[str, Any], answer: bytes) -> None:
        cloud = self.cloud
        if operation == "ModifyVolume":
            cloud.adopt_modification(parameters["VolumeId"])
        if operation == "CreateSnapshot":
            found = _SNAPSHOT_ID.search(answer)
            assert found is not None
            snapshot_id = found[1].decode()
            cloud.keeping.begin(cloud.ec2.snapshots[snapshot_id], cloud.now())
            cloud.hooks.snapshot(parameters["VolumeId"], snapshot_id)

    def _pass_on(self, environ: Environ) -> tuple[str, list[tuple[str, str]], bytes]:
        begun: list[Any] = []

        def start_response(
            status: str, headers: list[tuple[str, str]], error: object = None, /
        ) -> Callable[[bytes], object]:
            del error
            begun[:] = [status, headers]
            return lambda _written: None

        environ["wsgi.input"].seek(0)
        application = self._moto.get_application(environ)
        environ["wsgi.input"].seek(0)
        answer = b"".join(application(environ, start_response))
        return begun[0], begun[1], answer


def check_filters(parameters: dict[str, Any]) -> None:
    """Refuse filters with more values than EC2 takes; moto takes any number."""
    if sum(name.startswith("Filter.") and ".Value." in name for name in parameters) > _FILTER_VALUES:
        message = f"The maximum number of filter values specified on a single call is {_FILTER_VALUES}"
        raise CallError("FilterLimitExceeded", message)


def _encode_error(error: CallError, *, is_json: bool) -> tuple[str, list[tuple[str, str]], bytes]:
    status = f"{error.status} Error"
    if is_json:
        body = json.dumps({"__type": error.code, "message": error.message}).encode()
        return status, [("Content-Type", "application/x-amz-json-1.1")], body
    text = (
        f"<Response><Errors><Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}"
        "</Message></Error></Errors><RequestID>emulated</RequestID></Response>"
    )
    return status, [("Content-Type", "text/xml")], text.encode()
