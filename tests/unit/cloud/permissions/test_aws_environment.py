from __future__ import annotations

import pytest

from agent.cloud.permissions.aws_environment import NOT_SHOWN, describe_environment


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("AWS_REGION", "us-west-2", "us-west-2"),
        ("AWS_PROFILE", "hyperpod", "hyperpod"),
        ("AWS_SECRET_ACCESS_KEY", "secret", NOT_SHOWN),
        ("AWS_ACCESS_KEY_ID", "secret", NOT_SHOWN),
        ("AWS_SESSION_TOKEN", "secret", NOT_SHOWN),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret", NOT_SHOWN),
        ("AWS_SOMETHING_NEW", "secret", NOT_SHOWN),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/secret", NOT_SHOWN),
        ("HTTPS_PROXY", "http://proxy:3128", "http://proxy:3128"),
        ("https_proxy", "proxy:3128", "proxy:3128"),
        ("HTTPS_PROXY", "http://me:secret@proxy:3128/secret?secret#secret", "http://…@proxy:3128"),
        ("https_proxy", "me:secret@proxy:3128", "…@proxy:3128"),
        ("HTTP_PROXY", "http://secret:3128x", NOT_SHOWN),
        ("HTTP_PROXY", "http://[::1]:3128", "http://[::1]:3128"),
        ("HTTP_PROXY", "http://me:12/secret@proxy:3128", NOT_SHOWN),
        ("HTTP_PROXY", "http://me:12#secret@proxy:3128", NOT_SHOWN),
        ("NO_PROXY", "169.254.169.254,.internal", "169.254.169.254,.internal"),
        ("AWS_ENDPOINT_URL_EC2", "https://u:secret@vpce.example/secret", "https://…@vpce.example"),
        ("AWS_REGION", "a\x1b[2J", NOT_SHOWN),
        ("HTTPS_PROXY", "", NOT_SHOWN),
    ],
)
def test_secrets_are_never_shown(name: str, value: str, shown: str) -> None:
    """What decides how AWS is reached is told; what is or may hold a secret only that it is set."""
    assert describe_environment({name: value}) == {name: shown}


def test_what_does_not_matter_is_left_out() -> None:
    """The rest of an environment is nobody's business."""
    assert describe_environment({"PATH": "/bin", "HOME": "/root", "TOKEN": "secret"}) == {}
