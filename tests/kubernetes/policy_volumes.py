"""Volumes of the node's policy for pods: entries of the installed agent, and claims of them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from tests.kubernetes.api import Object
from tests.kubernetes.manifests import POLICY_DRIVER
from tests.kubernetes.node import KubernetesNode
from tests.kubernetes.workloads import SIZE_BYTES, Claim, Workloads, has_phase
from tests.vm.guest.agent_disk import REPOSITORY
from tests.vm.guest_agent import POLICY

DOCUMENT = REPOSITORY / "docs/kubernetes.md"
BEGIN, END = "```yaml\n", "```\n"


def read_documented() -> dict[str, Object]:
    """Return driver, persistent volume and claim, by kind, as the documentation has them."""
    blocks = [part.split(END, 1)[0] for part in DOCUMENT.read_text(encoding="utf-8").split(BEGIN)[1:]]
    (block,) = [text for text in blocks if "kind: CSIDriver" in text and POLICY_DRIVER in text]
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(block)}


class PolicyVolumes:
    """The entries of the installed agent's policy during one test, and claims of them."""

    def __init__(self, workloads: Workloads) -> None:
        self.workloads = workloads
        self.node: KubernetesNode = workloads.node
        self._volumes: list[str] = []
        workloads.api.ensure(read_documented()["CSIDriver"])

    def write(self, *entries: Mapping[str, Any]) -> None:
        """Have the policy name these volumes and no others, and have it read."""
        guest = self.node.guest
        policy = yaml.safe_load(guest.get(POLICY))
        policy["volumes"] = list(entries)
        guest.put(POLICY, yaml.safe_dump(policy).encode(), mode=0o600)
        self.node.agent.reload()

    def attach(self, volume_id: str, size_bytes: int = SIZE_BYTES) -> str:
        """Attach a volume, made of zeros where it does not exist; return its device."""
        return self.node.ebs.attach(volume_id, size_bytes)

    def claim(
        self,
        entry: str,
        *,
        access: str = "ReadWriteMany",
        is_block: bool = False,
        mount_options: Sequence[str] = (),
    ) -> Claim:
        """Make an entry known to Kubernetes, and wait until its claim is bound: its volume is the entry."""
        name = f"{entry}-{secrets.token_hex(3)}"
        documented = read_documented()
        volume, claim = documented["PersistentVolume"], documented["PersistentVolumeClaim"]
        mode = "Block" if is_block else "Filesystem"
        for manifest in (volume, claim):
            manifest["spec"] |= {"accessModes": [access], "volumeMode": mode}
        volume["metadata"]["name"] = claim["spec"]["volumeName"] = name
        volume["spec"]["claimRef"] = {"namespace": "default", "name": name}
        volume["spec"]["mountOptions"] = list(mount_options)
        volume["spec"]["csi"]["volumeHandle"] = entry
        claim["metadata"] = {"name": name}
        for manifest in (volume, claim):
            self.workloads.create(manifest)
        self.workloads.api.wait("PersistentVolumeClaim", name, has_phase("Bound"), "was to be bound")
        return Claim(name, entry)

    def clear(self) -> None:
        """End the pods, then have the policy name no volume, so that nothing is mounted again."""
        self.workloads.end_objects()
        self.write()


def make_policy_entry(name: str, volume_id: str, **fields: Any) -> Object:
    """Return an entry of the policy with a filesystem, made where the volume is blank."""
    return {
        "name": name,
        "match": {"volume_id": volume_id},
        "filesystem": {"type": "ext4", "format": "if-blank"},
        "mount": {"path": find_path(name)},
        **fields,
    }


def make_raw_entry(name: str, volume_id: str) -> Object:
    """Return an entry of the policy that is a device and nothing else."""
    return {"name": name, "match": {"volume_id": volume_id}, "block": {}}


def find_path(entry: str) -> str:
    """Return where the node has an entry's filesystem."""
    return f"/data/{entry}"
