"""Mount paths of the policy: what a template may say, and what it becomes for one volume on one node.

A field yields exactly one path component. A value that could not is refused, never mended: a tag is
written by whoever may tag a volume, and must not choose a place the policy's author did not mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from msgspec import Struct

from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import NodeFacts, Origin, Reason, VolumeId
from agent.core.quoting import quote
from agent.core.suggestions import find_meant
from agent.core.system_places import INSTANCE_STORE, SHARED_PLACES, SYSTEM_MOUNTS

FIELDS = ("volume_id", "name", "instance_name", "instance_group", "instance_id")
MAX_PATH_BYTES = 4095
MAX_COMPONENTS = 64
MAX_COMPONENT_BYTES = 255

PROTECTED = (
    *("/bin", "/dev", "/lib", "/lib32", "/lib64", INSTANCE_STORE, "/opt/ebs-agent", "/proc", "/root"),
    *(
        "/run/ebs-agent",
        "/run/systemd",
        "/run/udev",
        "/sbin",
        "/sys",
        "/var/lib/ebs-agent",
        "/var/lib/kubelet",
    ),
    *(place for place in SYSTEM_MOUNTS if place not in SHARED_PLACES),
)
"""Where nothing is ever mounted, over it or in it: the system, HyperPod's own places, and the agent's."""

_FIELD_SHOWN = 40
_FIELD = re.compile(r"\{([^{}]*)\}")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff/]")


class PathFacts(Struct, frozen=True):
    """What a template can ask for."""

    volume_id: VolumeId
    name: str
    node: NodeFacts
    origin: Origin | None = None


def parse_directory(text: str) -> str:
    """Return an absolute, normalised directory path without template fields. Raises InvalidValueError."""
    if "{" in text or "}" in text:
        raise InvalidValueError(f"{quote(text, 80)} is a template.", hint="Only mount paths may hold fields.")
    return _normalise(text, text)


def parse_root(text: str) -> str:
    """Return a directory mounts may lie beneath. Raises InvalidValueError."""
    path = parse_directory(text)
    if any(_is_within(_split(path), _split(other)) for other in PROTECTED):
        raise InvalidValueError(
            f"{quote(text, 80)} must not hold mounts.",
            hint="Use a directory for data, such as /data or /mnt.",
        )
    return path


def parse_template(text: str) -> str:
    """Return a mount path that may hold fields, normalised. Raises InvalidValueError."""
    for found in _FIELD.finditer(text):
        if found[1] not in FIELDS and not (found[1].startswith("tag:") and len(found[1]) > len("tag:")):
            known = " ".join(f"{{{name}}}" for name in FIELDS)
            meant = find_meant(found[1], FIELDS)
            before = "" if meant is None else f"Did you mean {{{meant}}}? "
            is_short = found[0].isprintable() and len(found[0]) <= _FIELD_SHOWN
            written = found[0] if is_short else quote(found[0], _FIELD_SHOWN)
            raise InvalidValueError(
                f"{written} is not a field.", hint=f"{before}The fields are {known} {{tag:KEY}}."
            )
    plain = _FIELD.sub("field", text)
    if "{" in plain or "}" in plain:
        raise InvalidValueError(f"{quote(text, 80)} has a brace without its other half.")
    _normalise(plain, text)
    # Slashes within {tag:…} belong to the key, so the text itself is tidied only at its end.
    return text.rstrip("/") if text != "/" else text


def _normalise(plain: str, text: str) -> str:
    if not plain.startswith("/"):
        raise InvalidValueError(f"{quote(text, 80)} is not absolute.", hint="Begin it with a slash.")
    components = plain.strip("/").split("/")
    if any(component in {".", ".."} for component in components):
        raise InvalidValueError(
            f"{quote(text, 80)} holds . or .. as a component.", hint="Write the path out."
        )
    if "//" in plain:
        raise InvalidValueError(
            f"{quote(text, 80)} holds an empty component.", hint="Remove the doubled slash."
        )
    if len(components) > MAX_COMPONENTS or len(plain.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise InvalidValueError(f"{quote(text, 80)} is too long for a path.")
    for component in components:
        if len(component.encode("utf-8", "surrogatepass")) > MAX_COMPONENT_BYTES:
            raise InvalidValueError(f"{quote(component, 80)} is too long for a directory's name.")
    if _UNSAFE.search(plain.replace("/", "")):
        raise InvalidValueError(f"{quote(text, 80)} holds a control character.")
    return "/" + "/".join(component for component in components if component)


def split_template(template: str) -> tuple[str, ...]:
    """Return the components of a template, fields left in them."""
    # A slash inside braces is part of a tag key.
    return tuple(re.findall(r"(?:\{[^{}]*\}|[^/{}])+", template))


def list_node_fields(template: str) -> frozenset[str]:
    """Return the fields of a template that ask for what is known of this node."""
    fields = frozenset(found[1] for found in _FIELD.finditer(template))
    return fields & frozenset(NodeFacts.__struct_fields__)


def find_obstacle(template: str, roots: Iterable[str]) -> str | None:
    """Return why a mount path may not be used, whatever its fields become, or None. A clause."""
    path = split_template(template)
    allowed = tuple(roots)
    if not any(_is_within(path, _split(root)) and path != _split(root) for root in allowed):
        return f"it does not lie beneath {' or '.join(allowed) or 'any allowed root'}"
    if path in _SHARED_PARTS:
        return f"what is mounted at {template} is the system's own"
    for place, parts in _PROTECTED_PARTS.items():
        if _is_within(path, parts):
            return f"nothing is mounted in {place}"
        if _is_within(parts, path):
            return f"it would hide {place}"
    return None


def _split(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


_PROTECTED_PARTS = {place: _split(place) for place in PROTECTED}
_SHARED_PARTS = frozenset(map(_split, SHARED_PLACES))
# Split once: the places are compared with every volume's path whenever volumes come and go.


def _is_within(path: tuple[str, ...], ancestor: tuple[str, ...]) -> bool:
    return path[: len(ancestor)] == ancestor


def expand_path(template: str, facts: PathFacts, roots: Iterable[str]) -> str:
    """Return the mount path for one volume on this node, or raise AgentError (PathNotAllowed)."""
    path = "/" + "/".join(_expand_component(part, facts) for part in split_template(template))
    obstacle = find_obstacle(path, roots)
    if obstacle is not None:
        raise _refuse(facts, f"its mount path is {path!r} and {obstacle}")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise _refuse(facts, f"its mount path has more than {MAX_PATH_BYTES} bytes")
    return path


def _expand_component(part: str, facts: PathFacts) -> str:
    component = _FIELD.sub(lambda found: _find_value(found[1], facts), part)
    if component in {".", ".."} or len(component.encode()) > MAX_COMPONENT_BYTES:
        raise _refuse(facts, f"{part} becomes {quote(component, 80)}, which cannot be a directory's name")
    return component


def _find_value(field: str, facts: PathFacts) -> str:
    value = _read_field(field, facts)
    if value is None:
        raise _refuse(
            facts,
            f"its mount path asks for {{{field}}} and {_name_source(field, facts)}",
            hint="Wait until it is known, or use a field that is, such as {volume_id}.",
            retryable=True,
        )
    if value in {"", ".", ".."} or _UNSAFE.search(value) or len(value.encode()) > MAX_COMPONENT_BYTES:
        raise _refuse(
            facts,
            f"its mount path asks for {{{field}}}, and {quote(value, 80)} cannot be a directory's name",
            hint="A value must be one path component, without slashes or control characters.",
        )
    return value


def _read_field(field: str, facts: PathFacts) -> str | None:
    if field.startswith("tag:"):
        return None if facts.origin is None else dict(facts.origin.tags).get(field.removeprefix("tag:"))
    readers: dict[str, Callable[[], str | None]] = {
        "volume_id": lambda: facts.volume_id,
        "name": lambda: facts.name,
        "instance_name": lambda: facts.node.instance_name,
        "instance_group": lambda: facts.node.instance_group,
        "instance_id": lambda: facts.node.instance_id,
    }
    return readers[field]()


def _name_source(field: str, facts: PathFacts) -> str:
    if field.startswith("tag:"):
        if facts.origin is None:
            return "its tags are not known"
        meant = find_meant(field.removeprefix("tag:"), dict(facts.origin.tags))
        return "it has no such tag" if meant is None else f"it has no such tag, but one called {quote(meant)}"
    return f"this node's {field} is not known"


def _refuse(facts: PathFacts, clause: str, hint: str | None = None, *, retryable: bool = False) -> AgentError:
    return AgentError(
        f"{facts.volume_id} cannot be mounted for {facts.name}: {clause}.",
        hint=hint or "Change mount.path in the policy, or the value it takes.",
        reason=Reason.PATH_NOT_ALLOWED,
        retryable=retryable,
    )
