"""Says what to do about AWS's refusals to those who use Kubernetes: the agent's own hints are for a node's.

A hint ends in an event of a claim or a pod, where there is no `ebs-agent` to call and no policy file.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TypeVar

from agent.cloud.aws.call import Call, Make, Within
from agent.cloud.errors import credential_rules, hyperpod_rules, kms_rules, rules
from agent.cloud.errors.explain import CloudError
from agent.cloud.errors.rule_type import Rule

T = TypeVar("T")

_CREDENTIALS = (
    "Has the controller's service account a role, by IRSA or EKS Pod Identity, or its pod keys of AWS's? "
)

HINTS: Mapping[Rule, str] = {
    rules.THROTTLED: "Nothing to do: it is asked again, ever more rarely.",
    rules.SERVER: "It is asked again. https://health.aws.amazon.com shows known trouble.",
    rules.LIMIT: "Let the pod run on another node, or use an instance type with more attachments. Network "
    "interfaces may share the limit.",
    rules.TAGS: "A volume or snapshot has 50 tags at most: set fewer in its class.",
    rules.SNAPSHOT_SO_SOON: "Nothing to do: it is asked again.",
    rules.SNAPSHOTS_PENDING: "Nothing to do: it is asked again when some may be completed.",
    rules.COOL_DOWN: "Nothing to do: it is modified when AWS allows it again.",
    rules.MODIFYING: "Nothing to do: it is modified when the last modification is completed.",
    rules.WRONG_ZONE: "Volumes cannot move: let the pod run in the volume's zone, or make a claim from a "
    "VolumeSnapshot of it. With volumeBindingMode: WaitForFirstConsumer volumes are made where pods run.",
    rules.ELSEWHERE: "It can be attached to another node once it is detached there.",
    rules.STATE: "It is tried again. If it stays so, the EC2 console shows the volume's state.",
    rules.INVALID: "Mend the class, or what the claim asks for: asking again would not help.",
    rules.NAME_TAKEN: "Nothing to do: another name is tried.",
    credential_rules.NO_CREDENTIALS: _CREDENTIALS.rstrip(),
    credential_rules.UNAVAILABLE: _CREDENTIALS
    + "What the environment names has to be there, and to be read by "
    "the controller's user: fsGroup in the pod's securityContext has tokens read by one that is not root.",
    credential_rules.NOT_ACCEPTED: _CREDENTIALS + "Are role and keys of this partition and not deleted, the "
    "region enabled for the account, and the node's clock right?",
    credential_rules.EXPIRED: _CREDENTIALS + "Those of a role are renewed by themselves: is the node's clock "
    "right? Keys that the environment gives have to be given anew.",
    credential_rules.NO_REGION: "Give the controller --region, or AWS_REGION.",
    hyperpod_rules.RESTRICTED: "Let the pod run on nodes of an instance group that is not restricted.",
    hyperpod_rules.NOT_EKS: "Use nodes of a cluster that EKS orchestrates.",
    hyperpod_rules.NO_NODE: "It passes by itself where the node is new. If it stays so: does its "
    "providerID name a cluster of this account and region?",
    kms_rules.KMS: "kms:CreateGrant and kms:DescribeKey have to be allowed to the controller's role, by its "
    "own policy or the key's, and the key enabled. A key whose deletion is pending is saved by `aws kms "
    "cancel-key-deletion`; once it is deleted, what it encrypted is lost.",
}
"""Where a rule is not in here its own hint is told, which is of AWS alone."""


def find_hint(error: CloudError) -> str | None:
    """Return what a person who uses Kubernetes can do about the error; None: what it says already."""
    if error.denied_action is not None:
        return (
            f"Allow {error.denied_action} to the controller's role, where a policy does not. "
            "`ebs-agent iam-policy --csi` prints all that it needs."
        )
    rule = rules.BY_CODE.get(error.code, rules.SERVER if error.is_transient else rules.OTHER)
    return HINTS.get(rule)


def tell_for_kubernetes(make: Make) -> Make:
    """Return what makes the same calls, and says of an error what to do in Kubernetes."""

    async def ask(call: Call[T], /, *, within: Within = nullcontext) -> T:
        try:
            return await make(call, within=within)
        except CloudError as error:
            error.hint = find_hint(error) or error.hint
            raise

    return ask
