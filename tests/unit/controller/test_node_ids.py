"""Which nodes a volume can be attached to, by their IDs."""

from __future__ import annotations

import pytest

from agent.cloud.aws.models import CloudAttachment
from agent.controller.calls import NodeId
from agent.controller.node_ids import find_node, parse_node_id
from agent.core.errors import InvalidValueError

INSTANCE = "i-0123456789abcdef0"


@pytest.mark.parametrize(
    "node",
    [NodeId(INSTANCE), NodeId("i-01234567"), NodeId(INSTANCE, "abc123def456"), NodeId("i-01234567", "x")],
)
def test_what_is_written_is_read(node: NodeId) -> None:
    assert parse_node_id(str(node)) == node


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hyperpod-x",
        "hyperpod-",
        "hyperpod--i-01234567",
        f"hyperpod-a-b-{INSTANCE}",
        f"hyperpod-ABC-{INSTANCE}",
        f"HYPERPOD-abc-{INSTANCE}",
        "i-0123456",
        "i-0123456789abcdef01",
        "i-0123456789ABCDEF0",
        f"{INSTANCE}\n",
        f" {INSTANCE}",
        f"{INSTANCE}/../x",
        "mi-0123456789abcdef0",
        "i-0123456789abcdef\u0660",
    ],
)
def test_what_is_no_node_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError, match="is no node"):
        parse_node_id(text)


def test_a_hyperpod_node_is_known_by_what_an_attachment_names() -> None:
    resource = f"arn:aws-us-gov:sagemaker:us-gov-west-1:111122223333:cluster/abc123-{INSTANCE}"
    attachment = CloudAttachment("attached", instance_id=INSTANCE, resource=resource)
    assert find_node(attachment) == NodeId(INSTANCE, "abc123")
    assert find_node(CloudAttachment("attached", instance_id=INSTANCE)) == NodeId(INSTANCE)
    assert find_node(CloudAttachment("attached")) is None
