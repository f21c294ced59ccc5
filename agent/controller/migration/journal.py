"""The record of a claim's migration: a note on the new PersistentVolume, made before anything is deleted.

It holds all that the rest is done by, so that whoever reads it goes on where another was cut off.
"""

from __future__ import annotations

import json
from typing import Any

from msgspec import Struct, to_builtins

from agent.controller.migration.objects import Object, name_of, read
from agent.core.errors import AgentError

ANNOTATION = "ebs-agent/migration"


class Journal(Struct, frozen=True):
    """What is being done to one claim."""

    origin: str
    """The driver that has the volume."""
    target: str
    old_name: str
    """The PersistentVolume that the claim had, and its UID."""
    old_uid: str
    claim_uid: str
    """The claim's as it was."""
    reclaim_policy: str
    """What the old PersistentVolume had, and the new one is to have in the end."""
    claim: dict[str, Any]
    """The new claim, as it will be made."""

    @property
    def namespace(self) -> str:
        """Where the claim is."""
        return str(self.claim["metadata"]["namespace"])

    @property
    def claim_name(self) -> str:
        """What the claim is called, before and after."""
        return str(self.claim["metadata"]["name"])


class UnreadableRecordError(AgentError):
    """Someone has changed a record: what is done of its claim is not known, and nothing more is done."""


def write_journal(journal: Journal) -> str:
    """Return the annotation's text."""
    return json.dumps(to_builtins(journal), sort_keys=True)


def read_journal(volume: Object | None) -> Journal | None:
    """Return the record on a PersistentVolume; None: there is none.

    Raises UnreadableRecordError.
    """
    text = read(volume, "metadata", "annotations", ANNOTATION)
    if text is None:
        return None
    try:
        journal = Journal(**json.loads(text))
        journal.namespace, journal.claim_name  # noqa: B018 -- KeyError where it names no claim
    except (ValueError, TypeError, KeyError) as error:
        raise UnreadableRecordError(
            f"The record of a migration on PersistentVolume {name_of(volume)} cannot be read: {error}.",
            hint=f"Nothing was done. Its annotation {ANNOTATION} was changed; put back what it was.",
            retryable=False,
        ) from error
    return journal
