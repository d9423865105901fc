"""Fields that nothing is known of: ignored, and logged the first time that they come."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

log = structlog.get_logger("loramux.server")
_NAMES = 256
"""Names that are remembered, of all callers together: from then on nothing is logged."""
_CHARACTERS = 64


class UnknownFields:
    """Names that were logged."""

    def __init__(self) -> None:
        self._known: set[tuple[str, str]] = set()

    def note(self, form: str, names: Sequence[str]) -> None:
        """Log those that are new."""
        new = []
        for name in names[:_NAMES]:
            key = (form, name[:_CHARACTERS])
            if key not in self._known and len(self._known) < _NAMES:
                self._known.add(key)
                new.append(name[:_CHARACTERS])
        if new:
            log.info("unknown fields are ignored", form=form, fields=new)


UNKNOWN = UnknownFields()
"""Names of this process, as there is one log."""
