"""AWS, asked and told from one node: who it is, its volumes, and what to do about them.

Nothing here touches a device or a filesystem, and only ``aws_worker`` imports boto3, in a process of its own.
"""

from __future__ import annotations
