"""Whether the compiled part of gearshift fits these files: both say which bindings they know."""

from __future__ import annotations

DIGEST = "4f6d987325c4db0b"
"""Of python/src. The build writes it here, and into what it compiles, which compares it with this
as it is imported."""

_MARK = "gearshift's compiled part"


def is_misfit(error: ImportError) -> bool:
    """Whether an import has failed since the compiled part is of other sources."""
    return str(error).startswith(_MARK)
