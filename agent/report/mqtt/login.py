"""What an agent shows a broker, and whom it believes: read anew for each connection, as it may be renewed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.base.file_reading import read_file
from agent.base.off_loop import Aside, do_here
from agent.core.errors import AgentError
from agent.policy.settings import MqttSettings
from agent.report.serving.certificates import ClientPems, make_client_context, read_client_pems

if TYPE_CHECKING:
    import ssl

MAX_PASSWORD_BYTES = 65536


@dataclass(frozen=True)
class Login:
    """What lies in files of what a connection begins with."""

    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None


NO_LOGIN = Login()


@dataclass(frozen=True)
class LoginFiles:
    """What those files hold."""

    password: str | None = field(default=None, repr=False)
    tls: ClientPems | None = None


async def read_login_files(settings: MqttSettings, aside: Aside) -> LoginFiles:
    """Return what the policy's files hold. Raises AgentError for a file that cannot be used."""
    password = None
    if settings.password_file is not None:
        password = await read_password(Path(settings.password_file), aside)
    return LoginFiles(password, await _read_pems(settings, aside) if settings.uses_tls else None)


def make_login(files: LoginFiles) -> Login:
    """Return what a connection begins with. Raises AgentError for what cannot be used."""
    return Login(files.password, None if files.tls is None else make_client_context(files.tls))


async def read_login(settings: MqttSettings) -> Login:
    """Return what a connection begins with, read in place."""
    return make_login(await read_login_files(settings, do_here))


async def read_password(path: Path, aside: Aside) -> str:
    """Return the first line of the password file."""
    try:
        found = await aside(read_file, str(path), MAX_PASSWORD_BYTES, subject=str(path))
        return found.check_regular().decode().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError(
            f"The password file {path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            hint="Correct agent.mqtt.password_file in the policy.",
        ) from error


async def _read_pems(settings: MqttSettings, aside: Aside) -> ClientPems:
    tls = settings.tls
    ca = None if tls is None or tls.ca is None else Path(tls.ca)
    own = None
    if tls is not None and tls.cert is not None and tls.key is not None:
        own = Path(tls.cert), Path(tls.key)
    return await read_client_pems(aside, ca, own)
