"""The error of a base that cannot be fetched."""

from __future__ import annotations


class FetchError(Exception):
    """Error for a base that cannot be fetched; the message names what is wrong, and no secret."""
