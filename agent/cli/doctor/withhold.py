"""Takes out of what a bug report holds what is nobody else's: beside what the agent shows to nobody, secrets.

A net for what others have written, not a proof: whoever hands an archive on is told to look through it. Where
it cannot be told where a secret ends, the rest of the line goes with it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from agent.report.endpoints.redaction import WITHHELD, redact

_ACCESS_KEY = re.compile(r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b")
"""https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html"""
_NAME = (
    r"(?:secret(?:[_-]?(?:access)?[_-]?key|[_-]?string)?|token|pass(?:word|wd|phrase)|(?<![a-z])pass|[_-]pwd"
    r"|(?:api|private|signing|account|encryption|access)[_-]?key|key[_-]data|amz[_-](?:signature|credential))"
    r"s?(?:[_-]?value)?"
)
"""How a name ends whose value is a secret: in the environment, YAML, JSON, a query or an option."""
_IS_NAME = re.compile(rf"(?i){_NAME}\Z")
_BLOCK = re.compile(
    rf"(?im)^([ \t]{{0,80}})(?![ \t])([\w .\"'-]{{0,60}}?{_NAME}[\"']?:[ \t]*[|>][^\n]*\n)"
    r"(?:(?:\1[ \t]+[^\n]*|[ \t]*)(?:\n|\Z))+"
)
"""A text of several lines in YAML."""
_LINE = re.compile(rf"(?im)^([ \t]*(?:- +)?[\"']?[\w.-]{{0,60}}?{_NAME}[\"']?:[ \t]+)(?![|>\"'])[^\n]+")
"""A text with blanks, without quotes, in YAML."""
_NAMED = re.compile(
    rf"""(?i)({_NAME}\\*["']?\s{{0,8}}[=:]\s{{0,8}})"""
    r"""(?:(\\*["'])(?:(?!\2)(?:\\.|[^\n]))*|(?!\\*["'])\S+)"""
)
_OPTION = re.compile(rf"""(?i)((?<![\w-])--?[\w-]{{0,40}}?{_NAME}[ \t]+["']?)[^\s"']+""")
_USER_OPTION = re.compile(r"""((?<!\S)(?:-u|--user)[ =]?["']?)[^\s"':]{0,200}:[^\s"']+""")
_WHOLE_LINE = re.compile(
    r"(?im)((?:SetCredential(?:Encrypted)?=|\b(?:proxy-)?authorization[\"']?[:=]))[^\n]*"
)
_BEARER = re.compile(r"(?i)\b(bearer|basic) [\w.~+/=-]{8,}")
_BY_ITSELF = re.compile(
    r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?|\bgh[pousr]_\w{20,}|\bxox[a-z]-[\w-]{8,}|LS0tLS1CRUdJTi[\w+/=-]*"
)
"""JSON Web Tokens, tokens of GitHub and Slack, and PEM in Base64: known by how they begin."""
_USER_OF_URL = re.compile(r"(?<=://)[^\s/?#\"'<>]*(?=@)")
_KEY = r"[A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?"
_PRIVATE_KEY = re.compile(rf"-----BEGIN ({_KEY})-----.*?(?:-----END \1-----|\Z)", re.DOTALL)
_END_OF_KEY = re.compile(rf"-----END {_KEY}-----")
_LONGEST_KEY = 16 << 10
"""Characters before an end without a beginning: what is collected may begin within a key."""


def withhold(found: Any) -> str:
    """Return bytes as text, or anything else as JSON, without what is private."""
    if isinstance(found, bytes):
        return _withhold_text(redact(found.decode("utf-8", "replace")))
    return json.dumps(_withhold_values(redact(found)), indent=1)


def _withhold_values(content: Any) -> Any:
    if isinstance(content, str):
        return _withhold_text(content)
    if isinstance(content, dict):
        return {key: _withhold_value(str(key), value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        before = ["", *content[:-1]]
        return [
            _withhold_value(_find_option(name), value) for name, value in zip(before, content, strict=True)
        ]
    return content


def _withhold_value(name: str, value: Any) -> Any:
    is_secret = isinstance(value, (str, int, float)) and not isinstance(value, bool) and _IS_NAME.search(name)
    return WITHHELD if is_secret else _withhold_values(value)


def _find_option(word: Any) -> str:
    """Return a word of a command line that says what the next one is; empty where it does not."""
    return word if isinstance(word, str) and word.startswith("-") else ""


def _withhold_text(text: str) -> str:
    text = _withhold_keys(text)
    text = _BLOCK.sub(rf"\1\2\1  {WITHHELD}\n", text)
    for named in (_WHOLE_LINE, _LINE, _NAMED, _OPTION, _USER_OPTION):
        text = named.sub(rf"\1{WITHHELD}", text)
    text = _BEARER.sub(rf"\1 {WITHHELD}", text)
    for known in (_BY_ITSELF, _USER_OF_URL, _ACCESS_KEY):
        text = known.sub(WITHHELD, text)
    return text


def _withhold_keys(text: str) -> str:
    text = _PRIVATE_KEY.sub(WITHHELD, text)
    while (end := _END_OF_KEY.search(text)) is not None:
        text = text[: max(0, end.start() - _LONGEST_KEY)] + WITHHELD + text[end.end() :]
    return text
