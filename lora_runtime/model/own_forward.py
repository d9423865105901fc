"""Transformers' own forward on one short sequence, as the base computes it without loramux: what
the steps of every backend are held to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import masking_utils

from .step_context import AttentionCall

_POSITIONS = 24
"""Positions of the sequence: more than a KV block has, in two chunks and a decode row."""
_MANY = 200
"""Positions of a small base's: what rows far apart, or many rows, change shows too."""
_SMALL = 5e8
"""Parameters times positions of a small base's sequence: a few hundredths of a second."""
_BEHIND_WINDOW = 16
"""Positions behind a sliding window: both chunks have rows that do not see all others."""
_COMPARED = 24
"""Last positions whose logits are compared, of a longer sequence."""
BESIDE = 9
"""Positions of the sequence that runs beside it: its own beginning, which has the same logits."""
_LONGEST = 1100
"""Positions of the longest sequence: its scores take memory with their square."""
_OPERATIONS = {"cpu": 5e9, "cuda": 2e12}
"""Parameters times positions of a sequence that goes behind a window, at most: about 0.2 s."""
_COLUMNS = 256
_OVERLAYS = ("sliding_window_overlay", "chunked_overlay")
"""Functions of transformers' that hide from a row what lies behind a window, and make masks so."""
_masks = threading.Lock()

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OwnForward:
    """What transformers' own forward gave for `tokens`.

    `logits` are those of the positions `kept`; `layers`: a few columns of what each layer gave, by
    its path and in the order in which they run, (calls, positions, columns); the first is what the
    first layer was given, by the path "". `windows`: of the masks that were made, sliding and chunked.
    """

    tokens: npt.NDArray[np.int32]
    kept: npt.NDArray[np.int64]
    logits: torch.Tensor
    layers: Mapping[str, Floats]
    windows: frozenset[int] = frozenset()


@torch.inference_mode()
def own_forward(
    model: Any,
    config: Any,
    calls: Sequence[AttentionCall],
    most: int,
    parameters: int,
    *,
    loops: bool,
) -> OwnForward:
    """Run the forward with the attention that the model is set to.

    `most`: positions that a sequence may have; `loops`: layers run several times in it.
    """
    length = sequence_length(calls, most, parameters, model.device.type)
    tokens = _tokens(config, length)
    places = {*range(min(BESIDE, length)), *range(max(0, length - _COMPARED), length)}
    kept = torch.tensor(sorted(places))
    ids = torch.from_numpy(tokens.astype(np.int64))[None].to(model.device)
    with LayerOutputs(model, layer_paths(calls)) as outputs, _windows_of_masks() as windows:
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept.to(model.device)).logits
        layers = outputs.take(length)
        if loops and length > 1:
            # In a cache a loop may find what another one left there.
            name = _cache_name(model)
            cache = model(input_ids=ids[:, :-1], use_cache=True)[name]
            outputs.take(length - 1)
            last = model(input_ids=ids[:, -1:], use_cache=True, **{name: cache})
            logits[:, -1:] = last.logits
            for path, row in outputs.take(1).items():
                if path in layers and len(layers[path]) == len(row):
                    layers[path][:, -1:] = row
    return OwnForward(tokens, kept.numpy(), logits[0].float(), layers, frozenset(windows))


@contextmanager
def _windows_of_masks() -> Iterator[set[int]]:
    """Windows of the masks that transformers makes meanwhile."""
    found: set[int] = set()

    def noting(own: Callable[..., Any]) -> Callable[..., Any]:
        def overlay(window: int, *args: Any) -> Any:
            found.add(int(window))
            return own(window, *args)

        return overlay

    with _masks:
        own = {name: getattr(masking_utils, name) for name in _OVERLAYS}
        for name, overlay in own.items():
            setattr(masking_utils, name, noting(overlay))
        try:
            yield found
        finally:
            for name, overlay in own.items():
                setattr(masking_utils, name, overlay)


def _cache_name(model: Any) -> str:
    """Name of the cache in the forward's arguments and results: it has changed in transformers."""
    return "cache" if "cache" in signature(model.forward).parameters else "past_key_values"


def sequence_length(calls: Sequence[AttentionCall], most: int, parameters: int, device: str) -> int:
    """Positions of the sequence: behind the longest sliding window that it can afford to pass."""
    afford = min(_LONGEST, most, int(_OPERATIONS.get(device, 5e9) / max(1, parameters)))
    windows = {c.window for c in calls if c.window is not None and c.window < most}
    behind = [min(window + _BEHIND_WINDOW, most) for window in windows]
    many = min(_MANY, int(_SMALL / max(1, parameters)))
    return max([min(max(_POSITIONS, many), most), *(n for n in behind if n <= afford)])


def _tokens(config: Any, length: int) -> npt.NDArray[np.int32]:
    """Tokens spread over the vocabulary, none with a meaning of its own such as padding."""
    special: set[int] = set()
    for name, value in config.to_dict().items():
        if name.endswith(("_token_id", "_token_index")) and value is not None:
            special.update(value if isinstance(value, list) else [value])
    spread = np.unique(np.linspace(0, config.vocab_size - 1, 4096).astype(np.int32))
    ids = spread[~np.isin(spread, [*special])] if len(spread) > len(special) else spread
    return ids[(np.arange(length) * 1597 + 1) % len(ids)]


class LayerOutputs:
    """Recorder of what each layer gives, and of what the first one is given, while it is entered.

    Layers by their paths; a path may come several times in one forward.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._layers = {path: model.get_submodule(path) for path in paths}
        self._handles: list[Any] = []
        self._calls: dict[str, list[Floats]] = {}

    def __enter__(self) -> Self:
        for i, (path, layer) in enumerate(self._layers.items()):
            if i == 0:
                self._handles.append(layer.register_forward_pre_hook(self._given, with_kwargs=True))
            self._handles.append(layer.register_forward_hook(partial(self._gave, path)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def take(self, rows: int) -> dict[str, Floats]:
        """(calls, rows, columns) by path, of forwards of so many rows; what has others is left out."""
        calls, self._calls = self._calls, {}
        return {
            path: np.stack(given)
            for path, given in calls.items()
            if all(x.shape == (rows, given[0].shape[-1]) for x in given)
        }

    def _given(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._note("", args[0] if args else kwargs.get("hidden_states"))

    def _gave(self, path: str, _: nn.Module, args: Any, output: Any) -> None:
        self._note(path, output[0] if isinstance(output, tuple | list) else output)

    def _note(self, path: str, x: Any) -> None:
        if isinstance(x, torch.Tensor):
            x = (x.to_local() if isinstance(x, DTensor) else x).flatten(0, -2)
            columns = x[:, :: -(-x.shape[-1] // _COLUMNS)].float().cpu().numpy()
            self._calls.setdefault(path, []).append(columns)


def layer_paths(calls: Iterable[AttentionCall]) -> list[str]:
    """Paths of the layers that attention is called in: up to the number in a list of layers."""
    found: dict[str, None] = {}
    for call in calls:
        parts = call.path.split(".")
        end = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
        found[".".join(parts[: end + 1])] = None
    return [*found]


def layers_without(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """Paths of the layers beside those at `paths`, in the same lists."""
    lists = {path.rpartition(".")[0] for path in paths if path.rpartition(".")[2].isdecimal()}
    beside = [
        f"{at}.{name}" for at in lists for name, _ in model.get_submodule(at).named_children()
    ]
    return [path for path in beside if path not in paths]
