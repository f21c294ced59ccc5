"""Where aiomqtt is had from without urllib, which paho imports for proxies found in the environment.

Those it would only ask with PySocks, which the agent does not have; and with urllib come http and email, more
memory than paho itself takes.
"""

from __future__ import annotations

from agent.base.lean_imports import replaced

__all__ = ["aiomqtt"]

# It asks for the proxies, and is told of none.
with replaced("urllib.request", getproxies=dict):
    import aiomqtt
