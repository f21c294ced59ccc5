"""Chooses whom the controller's worker is, which asks AWS and reads the token that a pod is given for it."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from agent.cloud.aws_worker.process import choose_user
from agent.core.errors import AgentError
from agent.core.quoting import quote

WORKER_USER = "ebs-agent"
TOKEN_FILES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
"""Variables that name the token of a pod's service account: of IRSA, and of EKS Pod Identity."""


def choose_worker_user(environment: Mapping[str, str], endpoint: str | None) -> str | int | None:
    """Return who the worker is to be; None: whoever the controller is.

    Raises AgentError where root's worker could not read the token: a pod of root's is given one that root
    alone can read, and every call would fail.
    """
    user = choose_user(WORKER_USER, endpoint)
    if user is None:
        return None
    uid = user if isinstance(user, int) else pwd.getpwnam(user).pw_uid
    for name in TOKEN_FILES:
        path = environment.get(name)
        if path and not may_read(Path(path), uid):
            raise AgentError(
                f"The controller runs as root, and asks AWS as user {user}, who cannot read {quote(path)}, "
                f"which {name} names.",
                hint="Run it as another user, as its worker then is, too: in the pod's securityContext set "
                "runAsUser: 65532 and fsGroup: 65532.",
            )
    return user


def may_read(path: Path, uid: int) -> bool:
    """Return whether a user who is in no group may read the file, by the modes of it and what leads to it.

    One that is not there yet may be: whoever reads it will tell.
    """
    try:
        real = path.resolve(strict=True)
        return _may(real, uid, os.R_OK) and all(_may(folder, uid, os.X_OK) for folder in real.parents)
    except OSError:
        return True


def _may(path: Path, uid: int, what: int) -> bool:
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    return bool((mode >> 6 if found.st_uid == uid else mode) & what)
