"""One way to have a value with some of its fields otherwise, whatever kind of value it is.

``msgspec.structs.replace`` takes structs alone, and any names as far as a type checker knows;
``dataclasses.replace`` takes no structs, but its names are checked, those of structs' fields too (PEP 681).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["replace"]

if TYPE_CHECKING:
    from dataclasses import replace
else:
    import dataclasses

    from msgspec import Struct, structs

    def replace(value: Any, /, **changes: Any) -> Any:
        """Return ``value`` with ``changes``. Raises TypeError for a field that it has not."""
        return (structs if isinstance(value, Struct) else dataclasses).replace(value, **changes)
