"""AWS's codes of errors that more than one place acts on. What each of all codes means is in ``rules``.

Sources: the EC2 API's reference of error codes, and the SageMaker API's of each call.
"""

from __future__ import annotations

NO_VOLUME = "InvalidVolume.NotFound"
NO_SNAPSHOT = "InvalidSnapshot.NotFound"
NO_ATTACHMENT = "InvalidAttachment.NotFound"
VOLUME_IN_USE = "VolumeInUse"
INCORRECT_STATE = "IncorrectState"

NAME_TAKEN = "AttachmentPointInUse"
"""The agent's own word: EC2 has no code for it but says InvalidParameterValue, as of anything wrong."""

UNKNOWN_NODE = frozenset({"ResourceNotFound", "ResourceNotFoundException", "InvalidInstanceID.NotFound"})
"""HyperPod says so of a cluster and of a node in it, EC2 of an instance. Of volumes both have other codes."""
