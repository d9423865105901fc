"""Flags of vLLM that controllers append to a server's command, as flags of `loramux serve`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from .common import GroupedCommand

PASSED_OVER = "loramux.passed_over"
"""Key in a context's `meta`: the flags that were given and have no effect."""
_MODULES, _SLOTS, _NAMES = "--lora-modules", "--max-loras", "--served-model-name"
_NO_EFFECT = {"--enable-lora": 0, "--max-lora-rank": 1, "--max-cpu-loras": 1}
"""Flags with the number of their values: adapters need not be switched on, every rank is served,
and host memory is bounded in bytes."""
_ABOUT = {"base_model_name", "is_3d_lora_weight"}
"""Keys of a module beside its name and path: there is one base, and tensors say their shape."""


class ServeCommand(GroupedCommand):
    """Command that takes these flags beside its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[PASSED_OVER] = []
        return super().parse_args(ctx, list(_translated(args, ctx.meta[PASSED_OVER])))


def _translated(args: Sequence[str], passed_over: list[str]) -> Iterator[str]:
    """Give the arguments with vLLM's flags turned into ours; `passed_over` gets those without
    effect."""
    left = list(args)
    while left:
        flag, _, value = (given := left.pop(0)).partition("=")
        if flag not in (_MODULES, _SLOTS, _NAMES, *_NO_EFFECT):
            yield given
            continue
        values = [value] if value else []
        most = {_SLOTS: 1, **_NO_EFFECT}.get(flag, len(left))
        while left and len(values) < most and not left[0].startswith("-"):
            values.append(left.pop(0))
        if flag in _NO_EFFECT:
            passed_over.append(flag)
        elif flag == _SLOTS:
            yield from ("--max-adapters", *values)
        elif flag == _NAMES:
            for name in values or [""]:
                yield from (_NAMES, name)
        else:
            for module in values:
                yield from ("--adapter", _adapter(module))


def _adapter(module: str) -> str:
    """Turn one of --lora-modules into NAME=DIRECTORY: it is that, or a JSON object, in quotes where
    no shell has taken them off."""
    module = module.removeprefix("'").removesuffix("'")
    if not module.startswith("{"):
        return module
    try:
        found = json.loads(module)
        name, path = found["name"], found["path"]
        # A name with a = would be taken for a shorter one.
        if isinstance(name, str) and isinstance(path, str) and "=" not in name:
            if unknown := found.keys() - _ABOUT - {"name", "path"}:
                raise typer.BadParameter(f"{_MODULES}: unknown: {', '.join(sorted(unknown))}")
            return f"{name}={path}"
    except (ValueError, KeyError, RecursionError):
        pass
    raise typer.BadParameter(f'{_MODULES} must be NAME=PATH or {{"name": ..., "path": ...}}')
