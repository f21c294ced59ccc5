"""An AWS on loopback: moto's server, with what moto lacks for EBS on HyperPod, and with faults on demand."""

from __future__ import annotations
