"""Structured answers: what the text of an answer must be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StructuredKind(StrEnum):
    """How the form of an answer is written down."""

    JSON_OBJECT = "json_object"
    """Any JSON object."""
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"


_WITH_TEXT = {StructuredKind.JSON_SCHEMA, StructuredKind.REGEX, StructuredKind.LARK}


@dataclass(frozen=True)
class StructuredAnswer:
    """Form that an answer's text has as a whole, unless something else ends it early.

    `text`: of kind json_schema a JSON Schema, of kind regex a regular expression in the syntax of
    Rust's regex, of kind lark a grammar in the Lark syntax of llguidance. `choices`: the texts of
    kind choice. See docs/guide/engine-api.md for what is taken of each.
    """

    kind: str
    text: str = ""
    choices: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that a request's limit counts: of a text as UTF-8, of a choice four more."""
        texts = (self.text, *self.choices)
        return sum(len(t.encode(errors="surrogatepass")) for t in texts) + 4 * len(self.choices)

    def violation(self) -> str:
        """What is wrong with it by itself; empty if nothing is."""
        if self.kind not in {*StructuredKind}:
            return f"kind must be one of {', '.join(StructuredKind)}"
        if bool(self.text) != (self.kind in _WITH_TEXT):
            return f"{self.kind} {'takes no' if self.text else 'needs a'} text"
        if bool(self.choices) != (self.kind == StructuredKind.CHOICE):
            return f"{self.kind} {'takes no' if self.choices else 'needs'} choices"
        if "" in self.choices:
            return "a choice must not be empty"
        try:
            "".join((self.text, *self.choices)).encode()
        except UnicodeEncodeError:
            return "has halves of characters"
        return ""
