"""What reads the pages that are tests: it overlooks no block, and takes no other output for the page's."""

from __future__ import annotations

import pytest

from tests.loop.pages.fences import find_difference, read_blocks

PAGE = """\
```sh
one
```

Text between.

```text
printed
```

<!-- not run: there is no AWS -->
```sh node
two
```

```yaml
version: 1
```
"""


def test_blocks_of_a_page() -> None:
    """Commands have what they print, and why they are not run; files stand for themselves."""
    first, second, third = read_blocks(PAGE)
    assert (first.language, first.text, first.expected, first.not_run) == ("sh", "one\n", "printed\n", None)
    assert (second.language, second.not_run, second.line) == ("sh node", "there is no AWS", 12)
    assert (third.language, third.is_command) == ("yaml", False)


@pytest.mark.parametrize(
    "page",
    [
        "<!-- not run: why -->\n\nText.\n\n```sh\none\n```\n",
        "<!-- not run: why -->\n",
        "```text\nprinted\n```\n",
        "```sh\none\n```\n```text\na\n```\n```text\nb\n```\n",
    ],
)
def test_words_that_belong_to_no_block_are_an_error(page: str) -> None:
    """A reason or an output that would be lost is told, with its line."""
    with pytest.raises(ValueError, match=r"line \d+|nothing follows"):
        read_blocks(page)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("", ""),
        ("a   b\n", "a b  \n\n"),
        ("vol-0123456789abcdef0 is here\n", "vol-59d5f5860a038a253 is here\n"),
        ("…\nend\n", "one\ntwo\nend\n"),
        ("…\nend\n", "end\n"),
        ("a\n…\n", "a\nb\nc\n"),
        ("…  done in … s\n", "2026-01-01 done in 0.1 s\n"),
    ],
)
def test_output_as_the_page_shows_it(expected: str, printed: str) -> None:
    """IDs, gaps and what … stands for may differ."""
    assert find_difference(expected, printed) is None


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("", "warning\n"),
        ("a\n", ""),
        ("a\n", "b\n"),
        ("a\n", "a\nb\n"),
        ("a\nb\n", "a\n"),
        ("…\nend\n", "one\n"),
        ("…\nend\n", "end\nmore\n"),
        ("i-0123456789abcdef0\n", "none\n"),
        ("5 GiB\n", "50 GiB\n"),
        ("done in … s\n", "failed in 1 s\n"),
    ],
)
def test_other_output_is_a_difference(expected: str, printed: str) -> None:
    """What is missing, other, or more is told."""
    assert find_difference(expected, printed) is not None
