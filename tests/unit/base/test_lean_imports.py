"""What a library is imported without is there for whoever imports it later."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from agent.base import lean_imports
from agent.base.lean_imports import bare, hashing_by_python, hidden, replaced


def run(code: str) -> list[str]:
    """Return the words that code prints in an interpreter of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_what_is_hidden_is_there_afterwards() -> None:
    with hidden("json"), pytest.raises(ImportError):
        import json  # noqa: PLC0415
    import json  # noqa: PLC0415

    assert json.loads("1") == 1


def test_asyncio_without_tls_is_asyncio() -> None:
    code = (
        "import agent.daemon, asyncio, ssl; asyncio.run(asyncio.sleep(0)); print(ssl.create_default_context)"
    )
    assert run(code)


def test_digests_without_openssl_are_the_same() -> None:
    digests = "hashlib.sha256(b'').hexdigest(), hashlib.blake2b(b'').hexdigest()"
    code = f"import agent.daemon, hashlib; print({digests})"
    assert run(code) == [hashlib.sha256(b"").hexdigest(), hashlib.blake2b(b"").hexdigest()]


def test_python_without_digests_of_its_own_keeps_openssl_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Fedora's is built."""
    monkeypatch.setattr(lean_imports, "find_spec", lambda _: None)
    with hashing_by_python():
        assert sys.modules.get("_hashlib", "not hidden") is not None


def test_what_stands_in_is_gone_afterwards() -> None:
    name = "tests.unit.base.not_there"
    with replaced(name, answer=42):
        assert sys.modules[name].__dict__["answer"] == 42
    assert name not in sys.modules


def test_what_is_there_is_not_replaced() -> None:
    with replaced("json", answer=42):
        assert not hasattr(sys.modules["json"], "answer")


def test_part_of_a_package_is_the_package_s_own() -> None:
    code = """
from agent.base.lean_imports import bare
with bare("prometheus_client"):
    from prometheus_client.metrics import Counter
import sys, prometheus_client
print(prometheus_client.Counter is Counter, prometheus_client.generate_latest is not None)
"""
    assert run(code) == ["True", "True"]


def test_a_package_that_is_not_installed_is_told() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"), bare("no_such_package"):
        pass
