"""A client of the API server: objects as JSON, made, read, changed, removed and waited for."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

Object = dict[str, Any]
CALL_TIMEOUT_S = 30.0
WAIT_S = 240.0
"""For what takes a second on a real node, ten under emulation, and minutes where others use the machine."""
NAMESPACE = "default"
SNAPSHOTS = "/apis/snapshot.storage.k8s.io/v1"
# Where the objects of a kind are.
PATHS = {
    "Node": "/api/v1/nodes",
    "Pod": f"/api/v1/namespaces/{NAMESPACE}/pods",
    "Event": f"/api/v1/namespaces/{NAMESPACE}/events",
    "PersistentVolume": "/api/v1/persistentvolumes",
    "PersistentVolumeClaim": f"/api/v1/namespaces/{NAMESPACE}/persistentvolumeclaims",
    "StorageClass": "/apis/storage.k8s.io/v1/storageclasses",
    "VolumeAttributesClass": "/apis/storage.k8s.io/v1/volumeattributesclasses",
    "VolumeAttachment": "/apis/storage.k8s.io/v1/volumeattachments",
    "CSIDriver": "/apis/storage.k8s.io/v1/csidrivers",
    "CSINode": "/apis/storage.k8s.io/v1/csinodes",
    "Lease": f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "Role": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/rolebindings",
    "VolumeSnapshotClass": f"{SNAPSHOTS}/volumesnapshotclasses",
    "VolumeSnapshotContent": f"{SNAPSHOTS}/volumesnapshotcontents",
    "VolumeSnapshot": f"{SNAPSHOTS}/namespaces/{NAMESPACE}/volumesnapshots",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}


class ApiError(Exception):
    """The API server said no, or did not answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Api:
    """One API server, as one of its users."""

    def __init__(self, url: str, certificate: Path, token: str) -> None:
        self._url = url
        self._token = token
        self._ssl = ssl.create_default_context(cafile=str(certificate))

    def is_ready(self) -> bool:
        """Tell whether the server says that it is ready."""
        try:
            self._request("GET", "/readyz")
        except ApiError:
            return False
        return True

    def create(self, manifest: Mapping[str, Any]) -> Object:
        """Make an object."""
        return self._ask("POST", PATHS[manifest["kind"]], manifest)

    def ensure(self, manifest: Mapping[str, Any]) -> None:
        """Make an object unless there is one of its name."""
        if not self.read(manifest["kind"], manifest["metadata"]["name"]):
            self.create(manifest)

    def read(self, kind: str, name: str) -> Object:
        """Return an object; empty where there is none of the name."""
        try:
            return self._ask("GET", f"{PATHS[kind]}/{name}")
        except ApiError as error:
            if error.status == 404:
                return {}
            raise

    def list(self, kind: str) -> list[Object]:
        """Return all objects of a kind."""
        found: list[Object] = self._ask("GET", PATHS[kind])["items"]
        return found

    def patch(self, kind: str, name: str, change: Mapping[str, Any], *, subresource: str = "") -> Object:
        """Merge a change into an object (RFC 7386)."""
        path = f"{PATHS[kind]}/{name}" + (f"/{subresource}" if subresource else "")
        return self._ask("PATCH", path, change, content_type="application/merge-patch+json")

    def delete(self, kind: str, name: str, *, grace_s: int | None = None) -> None:
        """Ask for an object's end, which may take time; nothing is said where there is none."""
        options = {} if grace_s is None else {"gracePeriodSeconds": grace_s}
        try:
            self._ask("DELETE", f"{PATHS[kind]}/{name}", options)
        except ApiError as error:
            if error.status != 404:
                raise

    def wait(
        self, kind: str, name: str, is_so: Callable[[Object], object], what: str, timeout_s: float = WAIT_S
    ) -> Object:
        """Return an object once it is as wanted; the failure shows how it was last."""
        last: Object = {}

        def look() -> Object | None:
            nonlocal last
            last = self.read(kind, name)
            return last if last and is_so(last) else None

        try:
            return wait_until(look, f"{kind} {name} {what}", timeout_s)
        except AssertionError as error:
            shown = json.dumps(last.get("status", last), indent=1)
            raise AssertionError(f"{error}; it was {shown}") from error

    def wait_gone(self, kind: str, name: str, timeout_s: float = WAIT_S) -> None:
        """Wait until there is no object of the name."""
        wait_until(lambda: not self.read(kind, name), f"{kind} {name} was to be gone", timeout_s)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        answer: Object = json.loads(self._request(method, path, body, content_type))
        return answer

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)  # noqa: S310 -- https
        try:
            with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S, context=self._ssl) as answer:  # noqa: S310
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            raise ApiError(f"{method} {path}: {error.code} {said}", error.code) from error
        except OSError as error:
            raise ApiError(f"{method} {path}: {error}") from error
        return content
