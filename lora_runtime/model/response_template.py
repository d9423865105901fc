"""Response template of the base's tokenizer: its own, or the operator's in its place."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

from transformers.utils.chat_parsing.response_templates import load_response_template

from ..errors import BaseModelError

log = logging.getLogger(__name__)


def read_template(path: str) -> dict[str, Any]:
    """Read a file with a response template. Raises BaseModelError."""
    try:
        template = json.loads(Path(path).read_text(encoding="utf-8"))
        load_response_template(template)
    except Exception as error:  # a pattern may be anything
        raise BaseModelError(f"response_template {path!r} cannot be used: {error}") from error
    return template


def with_template(tokenizer: Any, path: str) -> Any:
    """The tokenizer under the template in a file, or, without one, under its own if that is one.

    Raises BaseModelError.
    """
    template = read_template(path) if path else None
    if template is None:
        if (own := getattr(tokenizer, "response_template", None)) is None:
            return tokenizer
        try:
            load_response_template(own)
            return tokenizer
        except Exception as error:
            log.warning("the response template of the base's tokenizer is not used: %s", error)
    tokenizer = copy.copy(tokenizer)
    tokenizer.response_template = template
    return tokenizer
