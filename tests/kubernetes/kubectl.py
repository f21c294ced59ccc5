"""Objects of the chart, put into a cluster by the real kubectl."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.chart.helm import find_tool, helm_unavailable_reason
from tests.kubernetes.api import Object
from tests.kubernetes.control_plane import ControlPlane


def kubectl_unavailable_reason() -> str | None:
    """Return why the chart cannot be rendered and put into a cluster, or None."""
    return helm_unavailable_reason() or (None if find_tool("kubectl") else "needs kubectl: make helm")


def kubectl(plane: ControlPlane, objects: Sequence[Object], *options: str) -> str:
    """Have objects made, and every unknown field refused; return what became of each."""
    listed: dict[str, Any] = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    arguments = ("apply", "--server-side", "--validate=strict", "--filename=-", *options)
    return ask(plane, *arguments, text=json.dumps(listed))


def ask(plane: ControlPlane, *arguments: str, text: str = "", timeout_s: float = 120) -> str:
    """Run kubectl as the cluster's administrator, and return its answer."""
    kubeconfig = plane.directory / "admin.kubeconfig"
    kubeconfig.write_text(plane.write_kubeconfig("admin", "127.0.0.1"))
    program = find_tool("kubectl")
    assert program is not None
    argv: list[str] = [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--cache-dir={plane.directory}/kubectl",
        *arguments,
    ]
    done = subprocess.run(argv, check=False, input=text, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr
    return done.stdout
