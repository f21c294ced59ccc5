"""The planner: from what was observed of one volume and what is wanted of it, to steps. Pure.

No I/O, no clock, no randomness, no memory: everything that bears on a decision is an argument, so every
decision can be shown (``ebs-agent plan``), replayed and tested in a table. The order of the rules is the
safety argument: what is not ours is refused before anything on it is even considered.

================  ==========================================================================================
``rules``         the order of the rules; a volume that is absent
``whose_volume``  whose the volume is, and so whether it may be touched at all
``raw``           handed out as a block device, or taken back from that
``prepare``       attached and mounted nowhere: refuse, format, or check and mount
``keep_mounted``  mounted at its path: options, growth, ownership, tuning
``move_mount``    mounted elsewhere
``in_use``        who is in the way of that, named
``released``      taken away by a person: left alone until it is given back
``publish``       shown to pods, for kubelet, and taken back from there
================  ==========================================================================================
"""

from __future__ import annotations

from agent.core.plan.publish import plan_publish, plan_unstage
from agent.core.plan.released import plan_released
from agent.core.plan.rules import make_plan, needs_proof

__all__ = ["make_plan", "needs_proof", "plan_publish", "plan_released", "plan_unstage"]
