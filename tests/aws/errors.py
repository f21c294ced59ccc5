"""The errors the emulated AWS answers with."""

from __future__ import annotations


class CallError(Exception):
    """An error AWS answers with."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status = status
