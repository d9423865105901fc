"""Queries of the board: metrics of the pods that its variables pick."""

from __future__ import annotations

PODS = 'namespace=~"$namespace",job=~"$job",pod=~"$pod"'
INTERVAL = "$__rate_interval"
ADAPTER = 'adapter=~"$adapter"'


def select(metric: str, where: str = "") -> str:
    """A selector of a metric's series; `where`: more matchers."""
    return f"{metric}{{{','.join(filter(None, (PODS, where)))}}}"


def now(metric: str, by: str = "", where: str = "") -> str:
    """A gauge's sum, in all or by labels."""
    return _sum(select(metric, where), by)


def rate(metric: str, by: str = "", where: str = "") -> str:
    """A counter's increase per second, in all or by labels."""
    return _sum(f"rate({select(metric, where)}[{INTERVAL}])", by)


def quantile(q: float, metric: str) -> str:
    """A quantile of a histogram over all pods."""
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', 'le')})"


def quantiles(metric: str) -> tuple[tuple[str, str], ...]:
    """The median and the tails of a histogram, with their legends."""
    return tuple((f"p{q * 100:.0f}", quantile(q, metric)) for q in (0.5, 0.9, 0.99))


def mean(metric: str, by: str = "", where: str = "") -> str:
    """The mean of what a histogram or summary has observed."""
    return ratio(rate(f"{metric}_sum", by, where), rate(f"{metric}_count", by, where))


def ratio(part: str, whole: str) -> str:
    """A share of two queries with the same labels."""
    return f"{part} / {whole}"


def top(query: str, counter: str, by: str, where: str) -> str:
    """The series of the ten labels of which a counter grew most in the whole span: the same ones at
    each moment."""
    grown = _sum(f"increase({select(counter, where)}[$__range] @ end())", by)
    return f"{query} and topk(10, {grown})"


def or_zero(query: str) -> str:
    """A query without labels, 0 as long as nothing was counted."""
    return f"({query} or vector(0))"


def _sum(query: str, by: str) -> str:
    return f"sum by ({by}) ({query})" if by else f"sum({query})"
