from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import NodeFacts, Origin, Reason, VolumeId
from agent.core.system_places import SYSTEM_MOUNTS
from agent.policy.values.mount_path import (
    PROTECTED,
    PathFacts,
    expand_path,
    find_obstacle,
    parse_template,
    split_template,
)

ROOTS = ("/data", "/mnt")
VOLUME = VolumeId("vol-0123456789abcdef0")
NODE = NodeFacts("compute-1", "compute", "i-0123456789abcdef0")


def _facts(*tags: tuple[str, str]) -> PathFacts:
    return PathFacts(VOLUME, "ckpt", NODE, Origin(tags=tags))


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/data/a", "/data/a"),
        ("/data/a/", "/data/a"),
        ("/data/{name}/{volume_id}", f"/data/ckpt/{VOLUME}"),
        (
            "/data/{instance_group}-{instance_name}/{instance_id}",
            "/data/compute-compute-1/i-0123456789abcdef0",
        ),
        ("/data/{tag:team}/x", "/data/research/x"),
        ("/data/{tag:example.org/dir}", "/data/d"),
        ("/data/ü x", "/data/ü x"),
    ],
)
def test_fields_become_one_component_each(template: str, path: str) -> None:
    """A template is filled in with the volume's and the node's facts."""
    facts = _facts(("team", "research"), ("example.org/dir", "d"))
    assert expand_path(parse_template(template), facts, ROOTS) == path


@pytest.mark.parametrize(
    "value",
    ["", ".", "..", "a/b", "/", "/etc", "../..", "a\0b", "a\nb", "\x1b[2J", "x" * 256, "é" * 128, "\u2028"],
)
def test_a_value_that_is_no_component_is_refused(value: str) -> None:
    """A tag cannot lead anywhere its author chooses; it is refused by name, and not mended."""
    with pytest.raises(AgentError) as caught:
        expand_path("/data/{tag:dir}", _facts(("dir", value)), ROOTS)
    assert caught.value.reason is Reason.PATH_NOT_ALLOWED
    assert "{tag:dir}" in caught.value.message
    assert VOLUME in caught.value.message
    assert not caught.value.retryable


@pytest.mark.parametrize(("first", "last"), [(".", "."), ("x" * 200, "y" * 200)])
def test_parts_that_join_to_no_component_are_refused(first: str, last: str) -> None:
    """What is harmless by itself may not be so together."""
    with pytest.raises(AgentError, match="cannot be a directory's name"):
        expand_path("/data/{tag:a}{tag:b}", _facts(("a", first), ("b", last)), ROOTS)
    with pytest.raises(AgentError, match="cannot be a directory's name"):
        expand_path("/data/.{tag:a}", _facts(("a", "." if first == "." else "x" * 255)), ROOTS)


@pytest.mark.parametrize(
    ("template", "facts", "words"),
    [
        (
            "/data/{instance_name}",
            PathFacts(VOLUME, "n", NodeFacts()),
            "this node's instance_name is not known",
        ),
        ("/data/{instance_id}", PathFacts(VOLUME, "n", NodeFacts()), "this node's instance_id is not known"),
        ("/data/{tag:a}", PathFacts(VOLUME, "n", NODE), "its tags are not known"),
        ("/data/{tag:a}", PathFacts(VOLUME, "n", NODE, Origin()), "it has no such tag"),
    ],
)
def test_a_missing_fact_is_named(template: str, facts: PathFacts, words: str) -> None:
    """A path is never made without a fact it asks for; the error says which, and may pass with time."""
    with pytest.raises(AgentError, match=words) as caught:
        expand_path(template, facts, ROOTS)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("path", "roots", "words"),
    [
        ("/data/x", ROOTS, None),
        ("/data", ROOTS, "does not lie beneath"),
        ("/datax/y", ROOTS, "does not lie beneath"),
        ("/srv/x", (), "any allowed root"),
        ("/home", ("/",), None),
        ("/opt", ("/",), "would hide /opt/dlami/nvme"),
        ("/var/lib", ("/var",), "would hide /var/lib/ebs-agent"),
        ("/opt/sagemaker/x", ("/opt",), "nothing is mounted in /opt/sagemaker"),
        ("/usr", ("/",), "nothing is mounted in /usr"),
        ("/opt/data", ("/opt",), None),
        ("/opt/{name}", ("/opt",), None),
    ],
)
def test_places_that_are_not_for_volumes(path: str, roots: tuple[str, ...], words: str | None) -> None:
    """A mount lies strictly beneath a root, and never in or over a place of the system's or HyperPod's."""
    found = find_obstacle(path, roots)
    assert (found is None) if words is None else (found is not None and words in found)


@pytest.mark.parametrize("place", [place for place in SYSTEM_MOUNTS if place != "/"])
def test_no_volume_goes_where_it_would_be_taken_for_the_systems(place: str) -> None:
    """What is mounted there counts as the system's own, whoever mounted it."""
    assert find_obstacle(place, ["/"]) is not None
    facts = _facts(("dir", place.rpartition("/")[2]))
    with pytest.raises(AgentError):
        expand_path(f"{place.rpartition('/')[0]}/{{tag:dir}}", facts, ("/",))


def test_a_template_cannot_become_a_protected_place() -> None:
    """The place is looked at again when the fields are known."""
    with pytest.raises(AgentError, match="/opt/sagemaker"):
        expand_path("/opt/{tag:dir}", _facts(("dir", "sagemaker")), ("/opt",))


@given(st.text(max_size=60).map(lambda text: f"/{text}"), st.text(max_size=20), st.text(max_size=20))
def test_no_template_leaves_its_root(template: str, name: str, tag: str) -> None:
    """Whatever template and values are, the path is refused or plain, and lies beneath a root."""
    try:
        path = expand_path(
            parse_template(f"/data{template}{{name}}/{{tag:t}}"),
            PathFacts(VOLUME, name, NODE, Origin(tags=(("t", tag),))),
            ROOTS,
        )
    except (InvalidValueError, AgentError):
        return
    assert os.path.normpath(path) == path
    assert path.startswith("/data/")
    assert not any(path.startswith(f"{place}/") for place in PROTECTED)
    assert "\0" not in path


@given(st.text("ab/{}:.name", max_size=30))
def test_templates_are_read_or_refused(text: str) -> None:
    """Any text is a template or an InvalidValueError; what is read has no component that leads away."""
    try:
        template = parse_template(text)
    except InvalidValueError:
        return
    assert template.startswith("/")
    assert not {".", ".."} & set(split_template(template))


def test_what_is_no_field_is_told_on_one_line() -> None:
    """A field that holds a line's end, or a book, is refused in words that fit a line."""
    for field in ("name\n", "\x1b[2J", "x" * 5000):
        with pytest.raises(InvalidValueError, match="is not a field") as raised:
            parse_template(f"/data/{{{field}}}")
        assert raised.value.message.isprintable()
        assert len(raised.value.message) < 100
