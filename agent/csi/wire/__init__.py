"""What goes over kubelet's and the sidecars' sockets, as bytes: .proto files and the code made from them.

The names, numbers and types are those of the Container Storage Interface 1.12 and of kubelet's plugin
registration, v1, as far as the agent serves them. ``make proto`` generates the code anew; protobuf is
imported with it, so only the services import this, and that only while their face is on. What a controller
alone needs is apart: no node carries it.
"""

from __future__ import annotations

from agent.base.lean_imports import hidden

# Over sockets of this node nobody speaks TLS.
with hidden("ssl"):
    import grpclib.client  # noqa: F401
