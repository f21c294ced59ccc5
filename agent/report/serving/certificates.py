"""Makes TLS of the policy's PEM files, on whose disk nobody waits: a worker reads them.

OpenSSL takes certificates with their keys from files alone, so it is given files in memory. It is loaded
where there are any: most daemons have no use for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from agent.base.file_reading import read_file
from agent.base.off_loop import Aside
from agent.core.errors import InvalidValueError

if TYPE_CHECKING:
    import ssl

MAX_BYTES = 4 << 20
"""Far more than all authorities that a distribution trusts."""

_CLIENT_FILES, _CLIENT_SETTING = "What agent.mqtt.tls names", "agent.mqtt.tls"

Contents: TypeAlias = "tuple[bytes, bytes, bytes | None]"
"""What the files of a server hold: its certificate, the key, and the authorities of its clients."""


class Tls(Struct, frozen=True):
    """Certificates for HTTPS. With ``client_ca``, only clients it vouches for are answered."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class ServerTls:
    """A server's context, and what the files held that it was made of."""

    context: ssl.SSLContext
    contents: Contents = field(repr=False)


async def make_server_tls(tls: Tls, aside: Aside, before: ServerTls | None = None) -> ServerTls:
    """Return a server's TLS as the files are now, or raise AgentError naming the one that cannot be used.

    That is ``before`` while they hold the same. A context in use is never changed: what it shows would fit no
    key where the new one does not, and an authority once believed cannot be taken from it.
    """
    own = f"The certificate {tls.cert} with key {tls.key}"
    authorities = f"The client CA {tls.client_ca}"
    with _blaming(own, "agent.http.tls"):
        cert, key = await read_pem(aside, tls.cert), await read_pem(aside, tls.key)
    with _blaming(authorities, "agent.http.tls"):
        client_ca = None if tls.client_ca is None else await read_pem(aside, tls.client_ca)
    contents = cert, key, client_ca
    if before is not None and before.contents == contents:
        return before
    return ServerTls(make_server_context(contents, own, authorities), contents)


def make_server_context(
    contents: Contents, own: str = "The certificate", authorities: str = "The client CA"
) -> ssl.SSLContext:
    """Return a server's context of what files held, or raise AgentError naming what cannot be used."""
    import ssl  # noqa: PLC0415

    cert, key, client_ca = contents
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with _blaming(own, "agent.http.tls"):
        load_own(context, cert, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        with _blaming(authorities, "agent.http.tls"):
            load_authorities(context, client_ca)
    return context


@dataclass(frozen=True)
class ClientPems:
    """What files hold of what a client believes and shows."""

    authorities: bytes | None
    directory: str | None = None
    """Of further authorities, looked into when one is looked for."""
    own: tuple[bytes, bytes] | None = field(default=None, repr=False)
    """A certificate and its key."""


async def read_client_pems(aside: Aside, ca: Path | None, own: tuple[Path, Path] | None) -> ClientPems:
    """Return what whoever connects to a broker believes and shows, or raise AgentError.

    ``ca``: whom to believe, or the system's authorities. ``own``: what to show, a certificate and its key.
    """
    directory = None
    with _blaming(_CLIENT_FILES, _CLIENT_SETTING):
        if ca is None:
            content, directory = await aside(read_system_authorities, subject="the system's authorities")
        else:
            content = await read_pem(aside, ca)
        shown = None if own is None else (await read_pem(aside, own[0]), await read_pem(aside, own[1]))
    return ClientPems(content, directory, shown)


def make_client_context(pems: ClientPems) -> ssl.SSLContext:
    """Return the context of who connects to a broker, whose certificate is always checked, name and all."""
    import ssl  # noqa: PLC0415

    # Told of any authorities, it does not read the system's.
    context = ssl.create_default_context(capath=os.devnull)
    with _blaming(_CLIENT_FILES, _CLIENT_SETTING):
        if pems.directory is not None:
            context.load_verify_locations(capath=pems.directory)
        if pems.authorities:
            load_authorities(context, pems.authorities)
        if pems.own is not None:
            load_own(context, *pems.own)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


# -- Files ---------------------------------------------------------------------------------------------------


async def read_pem(aside: Aside, path: Path) -> bytes:
    """Return what a PEM file holds, or raise OSError, or NotAnsweringError where its disk hangs."""
    found = await aside(read_file, str(path), MAX_BYTES, subject=str(path))
    return found.check_regular()


def read_system_authorities() -> tuple[bytes | None, str | None]:
    """Return what the file of the system's authorities holds, and the directory of them. For workers."""
    import ssl  # noqa: PLC0415

    paths = ssl.get_default_verify_paths()
    content = read_file(paths.cafile, MAX_BYTES).content if paths.cafile else None
    return content, paths.capath


def load_own(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Have a context show a certificate. A key behind a password fails; nobody is asked for one."""
    with _in_memory(cert) as cert_path, _in_memory(key) as key_path:
        context.load_cert_chain(cert_path, key_path, password="")


def load_authorities(context: ssl.SSLContext, content: bytes) -> None:
    """Have a context believe these authorities."""
    with _in_memory(content) as path:
        context.load_verify_locations(cafile=path)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """Give the path of a file that is on no disk."""
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


@contextmanager
def _blaming(what: str, setting: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # ssl.SSLError is one
        raise InvalidValueError(
            f"{what} cannot be used: {error.strerror or error}.",
            hint=f"Correct {setting} in the policy: PEM files that root can read.",
        ) from error
