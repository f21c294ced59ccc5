from __future__ import annotations

import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest

from agent.report.serving.validity import find_expiry

pytestmark = pytest.mark.needs("openssl")


def make_certificate(directory: Path, *options: str) -> bytes:
    """Return a certificate that openssl makes."""
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    argv += ["-subj", "/CN=node", "-keyout", str(directory / "key"), "-out", str(directory / "cert")]
    subprocess.run([*argv, *options], check=True, capture_output=True)
    return (directory / "cert").read_bytes()


@pytest.mark.parametrize("days", [30, 20000])
def test_expiry_is_what_openssl_says(days: int, tmp_path: Path) -> None:
    """Before and after 2050, from when on certificates have another kind of time."""
    pem = make_certificate(tmp_path, "-days", str(days))
    shown = subprocess.run(
        ["openssl", "x509", "-in", str(tmp_path / "cert"), "-noout", "-enddate"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    wanted = datetime.strptime(shown, "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=timezone.utc)
    assert find_expiry(b"a word before\n" + pem + b"a chain behind") == wanted.timestamp()


def test_what_is_no_certificate_has_no_expiry(tmp_path: Path) -> None:
    """However it is malformed."""
    pem = make_certificate(tmp_path)
    lines = pem.splitlines(keepends=True)
    for broken in (b"", b"a key", pem[:-30], lines[0] + lines[-1], b"".join([*lines[:3], lines[-1]])):
        assert find_expiry(broken) is None
    assert find_expiry(lines[0] + b"\xff\xfe\n" + lines[-1]) is None
