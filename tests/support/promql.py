"""What an expression of PromQL asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import promql_parser
from promql_parser import AggModifierType, AggregateExpr, Expr, Matcher, MatchOp, VectorSelector

TARGET = frozenset({"namespace", "job", "pod", "container", "instance"})
"""Labels that Prometheus gives to all of a target's metrics."""
Series = Mapping[str, list[dict[str, str]]]
"""Labels of the series of each metric."""


@dataclass(frozen=True)
class Asked:
    """A metric in an expression."""

    metric: str
    matchers: tuple[Matcher, ...]
    grouped_by: frozenset[str]
    """Labels that the aggregations around it keep."""

    def missing(self, there: Series, counted: Mapping[str, set[str]]) -> str | None:
        """Say what is not there: the metric, a label, a value that is picked or left out.
        `counted`: values that a label may have besides."""
        if self.metric == "up":
            return None
        if self.metric not in there:
            return self.metric
        series = there[self.metric]
        for label in {m.name for m in self.matchers} | self.grouped_by:
            if label not in TARGET and not all(label in labels for labels in series):
                return f"{self.metric}{{{label}}}"
        for matcher in self.matchers:
            if matcher.name not in TARGET:
                values = {labels[matcher.name] for labels in series}
                values |= counted.get(matcher.name, set())
                for text in _alternatives(matcher):
                    if not any(re.fullmatch(text, value) for value in values):
                        return f"{self.metric}{{{matcher.name}: {text}}}"
        return None


def _alternatives(matcher: Matcher) -> list[str]:
    """Patterns of what a matcher picks or leaves out: each should be something."""
    is_text = matcher.op in (MatchOp.Equal, MatchOp.NotEqual)
    return [re.escape(matcher.value)] if is_text else matcher.value.split("|")


def asked(expression: str) -> list[Asked]:
    """Metrics of an expression. Raises ValueError where it is no PromQL."""
    return list(_asked(promql_parser.parse(expression), frozenset()))


def _asked(node: Expr, by: frozenset[str]) -> Iterator[Asked]:
    if isinstance(node, VectorSelector):
        assert node.name, "a selector without a name"
        yield Asked(node.name, tuple(node.matchers.matchers), by)
        return
    if isinstance(node, AggregateExpr) and node.modifier is not None:
        assert node.modifier.type == AggModifierType.By, "what is kept is named"
        by = by | frozenset(node.modifier.labels)
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (inner := getattr(node, name, None)) is not None:
            yield from _asked(inner, by)
    for inner in getattr(node, "args", ()):
        yield from _asked(inner, by)
