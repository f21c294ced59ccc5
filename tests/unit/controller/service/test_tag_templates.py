from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controller.service.tag_templates import TEMPLATE_LIMIT, fill_template
from agent.core.errors import InvalidValueError

FIELDS = {"PVCName": "claim", "PVCNamespace": "ns-prod-abcdef", "PVName": "pvc-1"}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{ .PVCName }}", "claim"),
        ("{{.PVCNamespace}}/{{.PVCName}}", "ns-prod-abcdef/claim"),
        ('{{ .PVCNamespace | contains "prod" }}', "true"),
        ('{{ .PVCNamespace | contains "test" }}', "false"),
        ('{{ .PVCNamespace | field "-" 2 | toUpper }}', "ABCDEF"),
        ('{{ field "-" 1 .PVCNamespace }}', "prod"),
        ("{{ substring 0 4 .PVCNamespace }}", "ns-p"),
        ("{{ substring -1 2 .PVCNamespace }}", "ns"),
        ("{{ substring 3 -1 .PVCNamespace }}", "prod-abcdef"),
        ("{{ substring 3 99 .PVCNamespace }}", "prod-abcdef"),
        ('{{ index "-" .PVCNamespace }} {{ lastIndex "-" .PVCNamespace }}', "2 7"),
        ('{{ substring 0 (index "-" .PVCNamespace) .PVCNamespace }}', "ns"),
        ("{{ (toUpper .PVCName) | toLower }}", "claim"),
        ('{{ "a\\"b" }}', 'a"b'),
        ("{{ `a|b` | toUpper }}", "A|B"),
        ("a {{- .PVCName -}} b", "aclaimb"),
        ("a{{/* nothing */}}b", "ab"),
        ("} } {", "} } {"),
    ],
)
def test_templates_are_filled_as_go_fills_them(template: str, filled: str) -> None:
    """Fields, functions, pipes and parentheses come to what AWS's driver makes of them."""
    assert fill_template(template, FIELDS) == filled


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ .PVCName", "not ended"),
        ("{{ .Secret }}", ".Secret is not known"),
        ("{{ html .PVCName }}", "no function 'html'"),
        ("{{ call }}", "no function 'call'"),
        ("{{ if .PVCName }}x{{ end }}", "no function 'if'"),
        ('{{ field "-" 9 .PVCName }}', "no field 9"),
        ('{{ field "-" -1 .PVCName }}', "no field -1"),
        ("{{ substring 9 10 .PVCName }}", "nothing from 9"),
        ("{{ toUpper 3 }}", "takes a text"),
        ("{{ toUpper true }}", "takes a text"),
        ("{{ toUpper }}", "takes a text"),
        ("{{ substring true 3 .PVCName }}", "takes a number"),
        ("{{ (toUpper .PVCName }}", "not closed"),
        ("{{ .PVCName .PVName }}", "one word too many"),
        ("{{ .PVCName | .PVName }}", "only a function"),
        ("{{ }}", "a value is missing"),
        ("{{ $x := 1 }}", "not understood"),
        ("{{ .PVCName.Foo }}", "one word too many"),
        ("x" * (TEMPLATE_LIMIT + 1), "more than"),
        ("{{" + "(" * 400 + " }}", "too many parentheses"),
    ],
)
def test_what_cannot_be_filled_is_told(template: str, why: str) -> None:
    """A template that is not understood is an error that says what is wrong with it, never a guess."""
    with pytest.raises(InvalidValueError, match=why.replace("(", r"\(")):
        fill_template(template, FIELDS)


@given(st.text(max_size=60))
def test_what_a_field_says_is_never_read_as_a_template(name: str) -> None:
    """A name with braces in it stays as it is."""
    assert fill_template("{{ .PVCName }}", {"PVCName": name}) == name


@given(st.text(alphabet='{}()|."`\\-0a .PVCName', max_size=60))
def test_any_text_is_filled_in_or_refused(template: str) -> None:
    """No template ends in anything but a text or an error that names it."""
    try:
        filled = fill_template(template, FIELDS)
    except InvalidValueError:
        return
    assert len(filled) <= len(template) * len(FIELDS["PVCNamespace"])
