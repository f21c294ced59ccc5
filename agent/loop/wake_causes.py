"""Why a volume is looked at, and which of these reasons end the pause after a failure.

What is heard of a device says that something may have happened to it, and often it was the agent's own doing:
e2fsck and mkfs close a descriptor that they wrote through, of which udev tells everybody, also where they
changed nothing. Whoever tried again at that would do nothing else. So a pause ends early for what is in
``ENDS_PAUSE`` alone: something that was not known when the attempt failed, or a person's order.
"""

from __future__ import annotations

from enum import Enum


class Cause(Enum):
    """Why a volume is looked at."""

    HINT = "hint"
    """Something was heard of its device, a sample was odd, or it is its turn: all may be as it was."""
    WANT = "want"
    """Something else is wanted of it: its entry, a permission or its claim is another, or it was released."""
    DEVICE = "device"
    """Its device came, went, answers again, or is another one or of another size than it was."""
    ANSWER = "answer"
    """What the cloud says of it has changed, or is waited for no longer."""
    WAY = "way"
    """What was in its way has gone, as a mount at its path; or what changes places with it is there to go."""
    ORDER = "order"
    """A person said so: to look at it, or to read the policy again."""


ENDS_PAUSE = frozenset({Cause.WANT, Cause.DEVICE, Cause.ANSWER, Cause.WAY, Cause.ORDER})
"""What ends the pause after a failure; nothing else does, however often it is heard."""

BEGINS_ANEW = frozenset({Cause.WANT, Cause.DEVICE, Cause.ANSWER})
"""After which the failures before say nothing any more, so that the pauses begin anew with the shortest."""
