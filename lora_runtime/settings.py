"""Declaration of settings: each is a field of a dataclass, with its limit and its help text.

    max_running: AtLeastOne = 64
    '''Sequences in one step.'''

The limit stands in the annotation, the help text below the field. The check of its values follows
from that, and so do the server's flag, variable and YAML key.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Limit:
    """Limit of a value: one of `choices`, or a number within bounds.

    Stands in a field's Annotated type.
    """

    demand: str = ""
    choices: tuple[str, ...] = ()
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    checked: bool = True
    """True if `check` checks it; False leaves that to who uses the value."""

    @property
    def bounds(self) -> dict[str, float]:
        """Bounds that are set, by pydantic's names for them."""
        return {
            name: bound for name in ("ge", "gt", "le") if (bound := getattr(self, name)) is not None
        }

    def allows(self, value: Any) -> bool:
        return (
            (not self.choices or value in self.choices)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
        )


AtLeastOne = Annotated[int, Limit("be at least 1", ge=1)]
NotNegative = Annotated[int, Limit("not be negative", ge=0)]
Positive = Annotated[float, Limit("be positive", gt=0)]
Fraction = Annotated[float, Limit("be in (0, 1]", gt=0, le=1)]


def one_of(*choices: str, checked: bool = True) -> Limit:
    return Limit(f"be one of {', '.join(choices)}", choices, checked=checked)


@dataclass(frozen=True)
class Setting:
    """One setting as its field declares it."""

    name: str
    type: Any
    limit: Limit
    default: Any
    help: str
    """Help text; empty where Python has no source to read it from."""


def settings_of(kind: type) -> tuple[Setting, ...]:
    """The settings of a dataclass, those that it inherits first."""
    types, texts = get_type_hints(kind, include_extras=True), _help_texts(kind)
    return tuple(
        Setting(f.name, *_split(types[f.name]), f.default, texts.get(f.name, ""))
        for f in fields(kind)
    )


def check(config: Any) -> None:
    """Check a config's settings. Raises ValueError for the first that is not within its limit."""
    hints = get_type_hints(type(config), include_extras=True)
    for name in (f.name for f in fields(config)):
        _, limit = _split(hints[name])
        value = getattr(config, name)
        if limit.checked and not limit.allows(value):
            raise ValueError(f"{name} must {limit.demand}, got {value!r}")


def _split(hint: Any) -> tuple[Any, Limit]:
    if get_origin(hint) is not Annotated:
        return hint, Limit()
    plain, limit = get_args(hint)
    return plain, limit


def _help_texts(kind: type) -> dict[str, str]:
    """Help texts: the string below each field, in one line, by field."""
    found = {}
    for owner in reversed(kind.__mro__[:-1]):
        try:
            tree: Any = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except OSError:
            continue
        for node, below in pairwise(tree.body[0].body):
            match node, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                    value=ast.Constant(value=str(text))
                ):
                    found[name] = " ".join(text.split())
    return found
