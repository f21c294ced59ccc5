"""What touches the kernel of the machine the agent runs on. Nothing here knows the policy."""

from __future__ import annotations

from agent.base.lean_imports import hashing_by_python

# Before the first module below that makes digests: what workers are forked from begins here, and the daemon.
with hashing_by_python():
    import hashlib  # noqa: F401
    import hmac  # noqa: F401 -- which the standard library's secrets bring
