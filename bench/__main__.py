"""``python -m bench``: every measurement there is, one after the other."""

from __future__ import annotations

from bench import fleet


def main() -> None:
    """Run all measurements."""
    fleet.main()


if __name__ == "__main__":
    main()
