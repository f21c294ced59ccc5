"""Reads the tags that classes ask for, and those that say for which claim something is made.

Whatever is wrong raises InvalidValueError naming the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.cloud.aws.models import Tags
from agent.controller.service.tag_templates import fill_template
from agent.core.errors import InvalidValueError
from agent.core.quoting import quote

SPECIFICATION = "tagSpecification"
DELETION = "tagDeletion"
"""Prefixes of parameters; these alone are told from others by their case, as AWS's driver has it."""

CREATED_FOR = "kubernetes.io/created-for/"

VOLUME_FIELDS = {
    "csi.storage.k8s.io/pvc/name": "PVCName",
    "csi.storage.k8s.io/pvc/namespace": "PVCNamespace",
    "csi.storage.k8s.io/pv/name": "PVName",
}
SNAPSHOT_FIELDS = {
    "csi.storage.k8s.io/volumesnapshot/name": "VolumeSnapshotName",
    "csi.storage.k8s.io/volumesnapshot/namespace": "VolumeSnapshotNamespace",
    "csi.storage.k8s.io/volumesnapshotcontent/name": "VolumeSnapshotContentName",
}
"""What the sidecars send with ``--extra-create-metadata``, and how templates name it."""

TAGS_LIMIT = 40
"""EC2 takes 50, of which the controller sets some itself."""
_KEY_LIMIT = 128
_VALUE_LIMIT = 256
_RESERVED = frozenset({"CSIVolumeName", "CSIVolumeSnapshotName", "KubernetesCluster"})
_RESERVED_PREFIXES = ("aws:", "kubernetes.io", "ebs.csi.aws.com/", "ebs-agent:")


def is_tag_parameter(key: str) -> bool:
    """Return whether a parameter of a class sets or removes a tag."""
    return key.startswith((SPECIFICATION, DELETION))


def read_metadata(parameters: Mapping[str, str], fields: Mapping[str, str]) -> dict[str, str]:
    """Return what the sidecar says of the object in Kubernetes, by the names that templates have for it."""
    return {field: parameters[key] for key, field in fields.items() if parameters.get(key)}


def read_origin_tags(parameters: Mapping[str, str], fields: Mapping[str, str]) -> Tags:
    """Return the tags that say for which object in Kubernetes something is made."""
    found = {
        CREATED_FOR + key.removeprefix("csi.storage.k8s.io/"): parameters[key]
        for key in fields
        if parameters.get(key)
    }
    for key, value in found.items():
        _check_lengths(key, value, key)
    return tuple(sorted(found.items()))


def parse_tags(parameters: Mapping[str, str], metadata: Mapping[str, str]) -> Tags:
    """Return the tags of ``tagSpecification…``, templates filled in; of a key given twice the last."""
    found: dict[str, str] = {}
    for name in sorted(key for key in parameters if key.startswith(SPECIFICATION)):
        key, equals, template = parameters[name].partition("=")
        if not equals:
            raise InvalidValueError(
                f"The parameter {name} is {quote(parameters[name])}, which is no tag.",
                hint="Write key=value, or key= for a tag without a value.",
            )
        try:
            value = fill_template(template, metadata)
        except InvalidValueError as error:
            raise InvalidValueError(f"The parameter {name}: {error.message}", hint=error.hint) from error
        check_tag(key, value, f"The parameter {name}")
        found[key] = value
    if len(found) > TAGS_LIMIT:
        raise InvalidValueError(
            f"The class asks for {len(found)} tags.", hint=f"Ask for {TAGS_LIMIT} at the most."
        )
    return tuple(sorted(found.items()))


def parse_removed_tags(parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Return the keys of ``tagDeletion…``."""
    found: set[str] = set()
    for name, key in parameters.items():
        if name.startswith(DELETION):
            check_tag(key, "", f"The parameter {name}")
            found.add(key)
    return tuple(sorted(found))


def parse_extra_tags(text: str) -> Tags:
    """Return the tags of ``key=value,key=value``, the option --extra-tags. Raises InvalidValueError."""
    found: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = pair.partition("=")
        if not equals or key in found:
            raise InvalidValueError(
                f"The option --extra-tags has {quote(pair)}, which is no tag, or one twice.",
                hint="Write it so: team=storage,stage=test.",
            )
        check_tag(key, value, "The option --extra-tags")
        found[key] = value
    return tuple(sorted(found.items()))


def check_tag(key: str, value: str, place: str) -> None:
    """Raise InvalidValueError where a tag is not one that users may set."""
    if not key:
        raise InvalidValueError(f"{place} has a tag without a key.", hint="Write key=value.")
    if key in _RESERVED or key.lower().startswith(_RESERVED_PREFIXES):
        raise InvalidValueError(
            f"{place} sets the tag {quote(key)}, which is reserved.",
            hint=f"Reserved are {', '.join(sorted(_RESERVED))}, and all that begin with "
            f"{', '.join(_RESERVED_PREFIXES)}.",
        )
    _check_lengths(key, value, place)
    if not (key + value).isprintable():
        raise InvalidValueError(f"{place} has a tag with characters that cannot be printed.")


def _check_lengths(key: str, value: str, place: str) -> None:
    if len(key) > _KEY_LIMIT or len(value) > _VALUE_LIMIT:
        raise InvalidValueError(
            f"{place} has a tag whose key or value is too long.",
            hint=f"EC2 takes {_KEY_LIMIT} characters for a key, and {_VALUE_LIMIT} for a value.",
        )
