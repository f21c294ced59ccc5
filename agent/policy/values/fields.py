"""Types of the policy's values: each reads what people write and refuses the rest with a hint.

They carry their own JSON Schema, for editors, since what is written (``"500GiB"``) is not what is kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

from agent.core.errors import InvalidValueError
from agent.core.model import VolumeId, parse_volume_id
from agent.core.quoting import quote
from agent.core.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    SIZE_RANGE_PATTERN,
    SizeRange,
    parse_duration,
    parse_size,
)
from agent.policy.values.annotations import Between, Check, Read, Shown
from agent.policy.values.cron import Schedule
from agent.policy.values.mount_options import parse_option
from agent.policy.values.mount_path import parse_directory, parse_root, parse_template

MAX_COUNT = 10**9
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
MODE_PATTERN = r"^(?:[0-7]{3}|[0-7]{4}|0[0-7]{4})$"
DEVICE_NAME_PATTERN = r"^(?:/dev/)?(?:sd[a-z]{1,2}[0-9]{0,2}|xvd[a-z]{1,2}[0-9]{0,2})$"
OWNER_PATTERN = r"^(?:[A-Za-z_][A-Za-z0-9_.@-]{0,254}\$?|[0-9]{1,10})$"
SOURCE_PATTERN = r"^(?:snap|vol)-(?:[0-9a-f]{8}|[0-9a-f]{17})$"
VOLUME_ID_PATTERN = r"^vol-(?:[0-9a-f]{8}|[0-9a-f]{17})$"
LABEL_PATTERN = r"^[A-Za-z0-9_.+:][A-Za-z0-9_.+: -]{0,254}$"
ZONE_PATTERN = r"^[a-z]{2,}(?:-[a-z]+)+-[0-9]+(?:-[a-z]+-[0-9]+)?[a-z]$"
LISTEN_PATTERN = r"^(?:\[[0-9a-fA-F:.%a-z]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"
TOPIC_PATTERN = r"^[^+#/\s$][^+#\s]*$"


def _read_text(parse: Callable[[str], object], example: str) -> Callable[[Any], object]:
    def read(value: Any) -> object:
        if isinstance(value, (dict, list, bool)) or value is None:
            only = "Only one can be said here. " if isinstance(value, list) else ""
            raise InvalidValueError(f"{quote(value)} is not text.", f"{only}Write it as in {example}")
        parsed = parse(str(value))
        if not isinstance(value, str):
            raise InvalidValueError(f"{quote(value)} is a number here.", f'Put it in quotes: "{value!s:.60}"')
        return parsed

    return read


def _match_text(pattern: str, what: str, example: str) -> Callable[[str], str]:
    compiled = re.compile(pattern.removesuffix("$"), re.ASCII)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            meant = _find_meant(compiled, text)
            hint = f"One is {example}" if meant is None else f"Did you mean {meant}?"
            raise InvalidValueError(f"{quote(text)} is not {what}.", hint=hint)
        return text

    return parse


def _find_meant(pattern: re.Pattern[str], text: str) -> str | None:
    """Return what would be right if not for blanks, capitals, a missing dash, or an ARN before it."""
    bare = text.strip()
    dashed = re.sub(r"^(vol|snap)(?=[0-9a-f])", r"\1-", bare)  # as the device's serial number has it
    variants = [bare, bare.lower(), dashed, *re.split(r"[/:]", bare)[-1:]]
    return next((variant for variant in variants if pattern.fullmatch(variant)), None)


def _text_schema(pattern: str | None = None, **more: Any) -> Shown:
    return Shown({"type": "string", **({"pattern": pattern} if pattern else {}), **more})


def _reader(parse: Callable[[str], object], example: str) -> Read:
    return Read(_read_text(parse, example))


def _shape(pattern: str, what: str, example: str) -> Read:
    return _reader(_match_text(pattern, what, example), example)


def _parse_name(text: str) -> str:
    _match_text(NAME_PATTERN, "a name", "checkpoints")(text)
    if text == "by-id" or text.startswith("vol-"):
        raise InvalidValueError(
            f"{text!r} cannot be a name: it would be taken for a volume's.", hint="Choose another name."
        )
    return text


def _parse_device_name(text: str) -> str:
    _match_text(DEVICE_NAME_PATTERN, "a device name chosen at attach", "/dev/sdf")(text)
    return text if text.startswith("/dev/") else f"/dev/{text}"


def _parse_mode(value: Any) -> int:
    if not isinstance(value, str):
        raise InvalidValueError(f"{quote(value, 20)} is not a mode.", 'Write it in quotes, in octal: "0770"')
    if not re.fullmatch(MODE_PATTERN.removesuffix("$"), value, re.ASCII):
        raise InvalidValueError(
            f"{quote(value, 20)} is not a mode.", 'A mode is three or four octal digits in quotes: "0770"'
        )
    return int(value, 8)


def _parse_node_mode(mode: int) -> int:
    if mode & ~0o666:
        raise InvalidValueError(
            f"The mode {mode:04o} is not one for a device node.", 'A node is read and written: "0660"'
        )
    return mode


def _parse_owner(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = str(value)
    if not isinstance(value, str) or not re.fullmatch(OWNER_PATTERN.removesuffix("$"), value, re.ASCII):
        raise InvalidValueError(
            f"{quote(value)} is not a user's or group's name or number.", _suggest_owner(value)
        )
    return value


def _suggest_owner(value: Any) -> str:
    pair = (
        re.fullmatch(r"([A-Za-z0-9_-]+)[:.]([A-Za-z0-9_-]+)", value, re.ASCII)
        if isinstance(value, str)
        else None
    )
    if pair is not None:
        return f"Write both: owner: {pair[1]}, group: {pair[2]}"
    return "One is ubuntu, or a number: 1000"


def _parse_listen(text: str) -> str:
    _match_text(LISTEN_PATTERN, "a host and port", "127.0.0.1:9842")(text)
    if not 0 < int(text.rpartition(":")[2]) < 1 << 16:
        raise InvalidValueError(f"{quote(text)} has no valid port.", hint="Ports are 1 to 65535.")
    return text


def _parse_read_ahead(text: str) -> int:
    size_bytes = parse_size(text)
    if size_bytes % 4096 or size_bytes > 1 << 30:
        raise InvalidValueError(
            f"The read-ahead {quote(text, 40)} is not possible.",
            hint="It is a multiple of 4KiB, 1GiB at most.",
        )
    return size_bytes


def _parse_volume_id(text: str) -> VolumeId:
    _match_text(VOLUME_ID_PATTERN, "an EBS volume ID", "vol-0123456789abcdef0")(text)
    return parse_volume_id(text)


def _parse_auto(value: Any) -> bool | None:
    if value == "auto":
        return None
    if not isinstance(value, bool):
        raise InvalidValueError(
            f"{quote(value, 40)} is not auto, true or false.", "Write auto, true or false."
        )
    return value


def _parse_patience(value: Any) -> float | None:
    if value == "never":
        return None
    seconds = _read_text(parse_duration, "5m, or never")(value)
    if not isinstance(seconds, float) or seconds > 86400:  # noqa: PLR2004 - a day
        raise InvalidValueError(
            f"{value!r:.40} is longer than this can last.", "Choose from 0s to 1d, or never."
        )
    return seconds


def _check_tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or key.lower().startswith("aws:") or len(value) > 256:  # noqa: PLR2004
            raise InvalidValueError(
                f"The tag {quote(key)} is not possible.",
                "Keys have 1 to 128 characters and do not begin with aws:, values have 256 at most.",
            )
    if len(tags) > 40:  # noqa: PLR2004 - EC2 allows 50, and the agent adds its own
        raise InvalidValueError(f"{len(tags)} tags are too many.", "40 is the most.")
    return tags


Flag: TypeAlias = bool
Count = Annotated[int, Between(1, MAX_COUNT)]
Port = Annotated[int, Between(1, 65535)]
AutoFlag = Annotated[bool | None, Read(_parse_auto), Shown({"enum": ["auto", True, False]})]

SizeBytes = Annotated[int, _reader(parse_size, "500GiB"), _text_schema(SIZE_PATTERN)]
ReadAheadBytes = Annotated[int, _reader(_parse_read_ahead, "4MiB"), _text_schema(SIZE_PATTERN)]
DurationSeconds = Annotated[float, _reader(parse_duration, "60s"), _text_schema(DURATION_PATTERN)]
PatienceSeconds = Annotated[
    float | None,
    Read(_parse_patience),
    Shown({"type": "string", "pattern": f"^never$|{DURATION_PATTERN}"}),
]
"""None: without end."""
Sizes = Annotated[SizeRange, Read(_read_text(SizeRange.parse, "500GiB")), _text_schema(SIZE_RANGE_PATTERN)]
Cron = Annotated[Schedule, Read(_read_text(Schedule.parse, "0 */6 * * *")), _text_schema()]

Name = Annotated[str, _reader(_parse_name, "checkpoints"), _text_schema(NAME_PATTERN)]
ClassName = Annotated[str, _shape(NAME_PATTERN, "a name", "fast"), _text_schema(NAME_PATTERN)]
Text = Annotated[str, _shape(r"^\S(?:.{0,1022}\S)?$", "a value", "compute-nodes"), _text_schema()]
VolumeIdField = Annotated[
    VolumeId, _reader(_parse_volume_id, "vol-0123456789abcdef0"), _text_schema(VOLUME_ID_PATTERN)
]
SourceId = Annotated[
    str,
    _shape(SOURCE_PATTERN, "an EBS snapshot or volume ID", "snap-0123456789abcdef0"),
    _text_schema(SOURCE_PATTERN),
]
DeviceName = Annotated[str, _reader(_parse_device_name, "/dev/sdf"), _text_schema(DEVICE_NAME_PATTERN)]
Zone = Annotated[str, _shape(ZONE_PATTERN, "an availability zone", "us-west-2a"), _text_schema(ZONE_PATTERN)]
Listen = Annotated[str, _reader(_parse_listen, "127.0.0.1:9842"), _text_schema(LISTEN_PATTERN)]
Topic = Annotated[str, _shape(TOPIC_PATTERN, "an MQTT topic", "ebs-agent"), _text_schema(TOPIC_PATTERN)]
Label = Annotated[str, _shape(LABEL_PATTERN, "a filesystem label", "ckpt"), _text_schema(LABEL_PATTERN)]

FilePath = Annotated[str, _reader(parse_directory, "/etc/ebs-agent/tls.pem"), _text_schema("^/")]
RootPath = Annotated[str, _reader(parse_root, "/data"), _text_schema("^/")]
PathTemplate = Annotated[str, _reader(parse_template, "/data/{name}"), _text_schema("^/")]
MountOption = Annotated[str, _reader(parse_option, "noatime"), _text_schema()]
MkfsOption = Annotated[
    str,
    _shape(r"^[!-~]{1,255}$", "one option, or one option's value", "-m0"),
    Shown({"type": ["string", "integer"]}),
]

Owner = Annotated[
    str,
    Read(_parse_owner),
    Shown({"type": ["string", "integer"], "pattern": OWNER_PATTERN}),
]
Mode = Annotated[int, Read(_parse_mode), _text_schema(MODE_PATTERN, examples=["0770"])]
NodeMode = Annotated[Mode, Check(_parse_node_mode)]
Tags = Annotated[
    Mapping[str, str],
    Check(_check_tags),
    Shown({"type": "object", "additionalProperties": {"type": "string", "maxLength": 256}}),
]
