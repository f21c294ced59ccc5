from __future__ import annotations

import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from agent.policy.reading import check_policy, load_policy, policy_schema

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLE = DOCS / "policy.example.yaml"


def _find_keys(schema: Any) -> set[str]:
    """Return every key that a policy may hold anywhere."""
    if isinstance(schema, dict):
        inner = {key for value in schema.values() for key in _find_keys(value)}
        properties = schema.get("properties")
        return inner | (set(properties) if isinstance(properties, dict) else set())
    return {key for item in schema for key in _find_keys(item)} if isinstance(schema, list) else set()


def test_the_schema_is_one() -> None:
    """Editors get a valid JSON Schema, and every key in it is explained."""
    schema = policy_schema()
    Draft202012Validator.check_schema(schema)
    for definition in (schema, *schema["$defs"].values()):
        for key, body in definition.get("properties", {}).items():
            referred = schema["$defs"].get(body.get("$ref", "").removeprefix("#/$defs/"), {})
            assert body.get("description") or referred.get("description"), key
        if definition.get("type") == "object":
            assert definition["additionalProperties"] is False


def test_the_example_is_valid() -> None:
    """The documented example is accepted by the agent and by the schema."""
    assert [problem.describe() for problem in check_policy(EXAMPLE.read_bytes())] == []
    assert len(load_policy(EXAMPLE, trust_owner=True).volumes) == 6
    Draft202012Validator(policy_schema()).validate(yaml.safe_load(EXAMPLE.read_text()))


def test_the_example_shows_every_key() -> None:
    """A key that is added to the policy is added to the example."""
    text = EXAMPLE.read_text()
    # cert and key of an MQTT client are shown by the server's.
    missing = {key for key in _find_keys(policy_schema()) if not re.search(rf"\b{key}:", text)}
    assert missing == set()


def test_the_documentation_tells_of_every_key() -> None:
    """docs/policy.md leaves no key out."""
    text = (DOCS / "policy.md").read_text()
    assert {key for key in _find_keys(policy_schema()) if f"`{key}`" not in text} == set()


def test_policies_in_the_documentation_are_valid() -> None:
    """Every YAML block of docs/policy.md that is a whole policy is accepted."""
    blocks = re.findall(r"```yaml\n(version:.*?)```", (DOCS / "policy.md").read_text(), re.DOTALL)
    assert blocks
    assert [problem.describe() for block in blocks for problem in check_policy(block)] == []


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("volumes: [{name: a, match: {size: 500GiB}, block: {}}]", True),
        ("volumes: [{name: a, match: {size: '>=1TiB'}, block: {mode: '0660'}}]", True),
        ("volumes: [{name: a, match: {size: 1GiB..2GiB}, block: {}}]", True),
        ("volumes: [{name: a, match: {size: 500}, block: {}}]", False),
        ("volumes: [{name: a, match: {size: 500GB}, block: {}}]", False),
        ("volumes: [{name: a/b, match: {size: 1GiB}, block: {}}]", False),
        ("volumes: [{name: a, match: {volume_id: vol-1}, block: {}}]", False),
        ("volumes: [{name: a, mtch: {}, block: {}}]", False),
        ("agent: {resync: 60}", False),
        ("volumes: [{name: a, match: {volume_id: , size: 1GiB}, block: {}}]", False),
        ("volumes: [{name: a, match: {size: 1GiB}, block: {}, tune: }]", False),
        ("agent: {resync: 60s, cloud: {enabled: true}}", True),
    ],
)
def test_schema_and_agent_agree(text: str, is_valid: bool) -> None:  # noqa: FBT001
    """What an editor marks, the agent refuses; what single values the agent takes, an editor does."""
    text = f"version: 1\n{text}"
    assert Draft202012Validator(policy_schema()).is_valid(yaml.safe_load(text)) == is_valid
    assert (check_policy(text) == []) == is_valid


def test_policies_are_frozen() -> None:
    """A policy never changes once it is read."""
    policy = load_policy(EXAMPLE, trust_owner=True)
    with pytest.raises(FrozenInstanceError):
        policy.version = 2  # type: ignore[assignment,misc]
    with pytest.raises(FrozenInstanceError):
        policy.volumes[0].grow = True  # type: ignore[misc]
