"""What became of the suite's specs, read from Ginkgo's report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Spec:
    """One spec: ``state`` is Ginkgo's word, and ``message`` what it has to say for a skip or a failure."""

    name: str
    state: str
    message: str

    def judge(self) -> None:
        """Pass, skip or fail as the spec did."""
        if self.state == "skipped":
            pytest.skip(f"{self.name}: {self.message}")
        assert self.state == "passed", f"{self.name} {self.state}: {self.message}"


def read_report(path: Path) -> list[Spec]:
    """Return the specs that were to run; suites that were not asked for, and unfinished specs, are none."""
    return [
        _read_spec(spec)
        for suite in json.loads(path.read_text("utf-8"))
        for spec in suite["SpecReports"] or ()
        # A spec that was not asked for is skipped without a word.
        if spec["State"] != "pending"
        and (spec["State"] != "skipped" or spec.get("Failure", {}).get("Message"))
    ]


def _read_spec(spec: dict[str, object]) -> Spec:
    texts = [*_texts(spec.get("ContainerHierarchyTexts")), str(spec["LeafNodeText"])]
    failure = spec.get("Failure")
    message = str(failure.get("Message", "")) if isinstance(failure, dict) else ""
    return Spec(" ".join(text for text in texts if text), str(spec["State"]), message)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, list):
        yield from (str(item) for item in value)
