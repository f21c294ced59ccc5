"""Which paths kubelet may name: beneath its root, where it keeps what is staged and what pods see.

Only the text is judged here. What is on the way, links above all, is looked at when the path is used.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from agent.core.errors import InvalidValueError
from agent.core.quoting import quote
from agent.csi.service.codes import NoSuchPathError
from agent.policy.values.mount_path import parse_directory

_STAGING = "plugins/kubernetes.io/csi"
_DEVICES = "plugins/kubernetes.io/csi/volumeDevices/publish"
_PODS = "pods"


class KubeletPaths(Struct, frozen=True):
    """kubelet's directories, by each way its root is written: as configured, and resolved."""

    roots: tuple[str, ...]

    def parse_staging(self, text: str) -> str:
        """Return a path that a volume may be staged at. Raises InvalidValueError."""
        return self._parse("staging_target_path", text, (_STAGING,))

    def parse_target(self, text: str) -> str:
        """Return a path that a volume may be published at. Raises InvalidValueError."""
        return self._parse("target_path", text, (_PODS, _DEVICES))

    def parse_volume_path(self, text: str) -> str:
        """Return a path that a volume may be staged or published at.

        Raises InvalidValueError where it cannot be a path, NoSuchPathError where it is none of kubelet's.
        """
        _require("volume_path", text)
        path = _normalise("volume_path", text) if text.startswith("/") else text
        if not self._is_beneath(path, (_STAGING, _PODS)):
            raise NoSuchPathError(
                f"No volume is at {quote(text, 200)}.",
                hint="Volumes are staged and published beneath kubelet's root,"
                f" {' or '.join(self.roots)}: agent.csi.kubelet_root in the policy says where that is.",
                retryable=False,
            )
        return path

    def _parse(self, field: str, text: str, places: tuple[str, ...]) -> str:
        _require(field, text)
        path = _normalise(field, text)
        if not self._is_beneath(path, places):
            allowed = " or ".join(self._list_places(places))
            raise InvalidValueError(
                f"The {field} {quote(text, 200)} is not beneath {allowed}.",
                hint="If kubelet has another root, name it: agent.csi.kubelet_root in the policy.",
            )
        return path

    def _list_places(self, places: Iterable[str]) -> list[str]:
        return [f"{root.rstrip('/')}/{place}" for root in self.roots for place in places]

    def _is_beneath(self, path: str, places: Iterable[str]) -> bool:
        return any(path.startswith(f"{place}/") for place in self._list_places(places))


def _require(field: str, text: str) -> None:
    if not text:
        raise InvalidValueError(f"The {field} is missing.")


def _normalise(field: str, text: str) -> str:
    try:
        return parse_directory(text)
    except InvalidValueError as error:
        raise InvalidValueError(f"The {field} {error.message}", hint=error.hint) from error
