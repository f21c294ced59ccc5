"""ebs-agent: makes the EBS volumes of a SageMaker HyperPod instance what its policy says they are."""

from __future__ import annotations

__version__ = "0.1.0"
