"""The status page: one self-contained HTML document, whole without scripts, that changes nothing.

Its script asks for the page again, from the same origin, and puts in place what has changed. Nothing else is
fetched, and the policy in the answer's header forbids all else: script and style are named there by their
hashes.
"""

from __future__ import annotations

from agent.report.endpoints.page.content import show_content
from agent.report.endpoints.page.document import content_security_policy, render_page

__all__ = ["content_security_policy", "render_page", "show_content"]
