"""train(): data, base, adapter, loop and output in order."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TrainingError
from .config import StepReport, TrainConfig, TrainResult
from .data import DataFile, read_rows
from .out_of_memory import first_line, is_out_of_memory

if TYPE_CHECKING:
    import torch

    from .encoding import Encoded, Example
    from .loop import Loop
    from .model import LoadedBase

_REQUIRED = ("peft", "matplotlib")
_NAMED = 10


def train(
    config: TrainConfig,
    *,
    on_step: Callable[[StepReport], object] | None = None,
    on_model: Callable[[Any], object] | None = None,
    on_note: Callable[[str], object] | None = None,
) -> TrainResult:
    """Train one adapter and write it, its card, its metrics and its plot into `config.out`.

    `on_note` gets lines about rows that are not trained on as they are, then `on_model` the
    PeftModel once, both before the first step; `on_step` gets every finished step. A
    KeyboardInterrupt raised in it leaves a checkpoint of that step. Raises TrainingError
    (DivergedError where the loss is no number) and BaseModelError.
    """
    _check_packages()
    _check_out(config)
    files = {"data": read_rows(config.data)}
    if config.eval_data is not None:
        files["eval_data"] = read_rows(config.eval_data)
    with _threads(config.threads):
        try:
            return _train(config, files, on_step, on_model, on_note)
        except OSError as error:
            where = "" if error.filename is None else f"{error.filename}: "
            raise TrainingError(f"{where}{error.strerror or error}") from error
        except MemoryError as error:
            raise TrainingError("there is no memory left for this run") from error
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the device has no room for base and adapter: {first_line(error)}"
            ) from error


def _train(
    config: TrainConfig,
    files: dict[str, DataFile],
    on_step: Callable[[StepReport], object] | None,
    on_model: Callable[[Any], object] | None,
    on_note: Callable[[str], object] | None,
) -> TrainResult:
    import torch

    from . import checkpoint, output
    from .convert import changes_base
    from .guard import FrozenBase
    from .loop import Loop
    from .model import add_adapter, load_base

    base = load_base(config)
    rows = _encode(config, files, base)
    if on_note is not None:
        for note in rows.notes:
            on_note(note)
    settings = _settings(config, files, base)
    saved = checkpoint.load(config.out) if config.resume == "auto" else None
    if saved is not None:
        checkpoint.check_same_run(saved, settings)
    torch.manual_seed(config.seed)
    model = add_adapter(base, config)
    initial = output.adapter_tensors(model) if changes_base(config) else {}
    frozen = FrozenBase(model)
    if on_model is not None:
        on_model(model)
    loop = Loop(model, config, rows.examples, rows.held_out, settings, initial)
    if saved is not None:
        _check_start(saved.initial, initial)
        loop.restore(saved)
    else:
        _clear(config.out)
    stopped = loop.run(on_step, frozen)
    frozen.check_bits()
    result = _result(config, loop, rows, stopped)
    output.write_adapter(model, initial, config)
    output.write_plot(result, config.out / output.PLOT)
    output.write_card(base, files, config, result)
    return result


def _check_packages() -> None:
    missing = [name for name in _REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(f"training needs {' and '.join(missing)}: pip install 'loramux[train]'")
    for name in _REQUIRED:
        try:
            importlib.import_module(name)
        except Exception as error:  # of whatever it needs in another version
            raise TrainingError(f"{name} is installed, but importing it fails: {error}") from error


def _check_out(config: TrainConfig) -> None:
    """Refuse a directory in use, unless it is to be gone on with or overwritten, and any that no
    run has made."""
    from . import checkpoint, metrics, output

    out = config.out
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is not a directory")
    found = [name for name in output.ALL if (out / name).exists()]
    if not found:
        return
    if not {output.WEIGHTS, output.CONFIG, metrics.NAME, checkpoint.NAME} & set(found):
        raise TrainingError(
            f"{out} has {found[0]}, which would be replaced, but nothing of an earlier run: take "
            "another directory"
        )
    if config.overwrite:
        return
    if config.resume == "never":
        raise TrainingError(
            f"{out} has {found[0]} of an earlier run: go on with it (resume) or start anew (overwrite)"
        )
    if found != [metrics.NAME] and checkpoint.NAME not in found:
        raise TrainingError(
            f"{out} has {found[0]} but no checkpoint to go on from: start anew (overwrite)"
        )


def _clear(out: Path) -> None:
    """An empty place for a new run. Raises OSError."""
    from . import output

    out.mkdir(parents=True, exist_ok=True)
    for name in output.ALL:
        (out / name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Rows:
    """What is trained on and what is held out."""

    examples: list[Example]
    held_out: list[Example]
    cut: tuple[int, ...]
    skipped: tuple[int, ...]
    notes: tuple[str, ...]


def _encode(config: TrainConfig, files: dict[str, DataFile], base: LoadedBase) -> _Rows:
    from .batches import split
    from .encoding import Encoder, encode_rows

    if config.max_length > base.context:
        raise TrainingError(
            f"max_length {config.max_length} is over the base's context of {base.context} tokens"
        )
    encoder = Encoder(base.tokenizer, base.ends, base.model.get_input_embeddings().weight.shape[0])
    encoded: dict[str, Encoded] = {
        name: encode_rows(
            encoder, file.rows, file.path, config.max_length or base.context, config.long_rows
        )
        for name, file in files.items()
    }
    data = encoded["data"]
    fraction = 0.0 if "eval_data" in encoded else config.eval_fraction
    kept, held = split(len(data.examples), fraction, config.seed)
    held_out = [data.examples[i] for i in held] + list(
        encoded["eval_data"].examples if "eval_data" in encoded else ()
    )
    for name in ("patience", "eval_every"):
        if getattr(config, name) and not held_out:
            raise TrainingError(
                f"{name} needs an evaluation: give eval_data, or an eval_fraction and two rows or more"
            )
    notes = [note for name, file in files.items() for note in _long_rows(file.path, encoded[name])]
    if fraction and not held:
        notes.append("a single row: nothing is held out")
    return _Rows([data.examples[i] for i in kept], held_out, data.cut, data.skipped, tuple(notes))


def _long_rows(path: Path, encoded: Encoded) -> Iterator[str]:
    for what, lines in (("cut", encoded.cut), ("skipped", encoded.skipped)):
        if lines:
            shown = ", ".join(map(str, lines[:_NAMED])) + (", …" if len(lines) > _NAMED else "")
            yield f"{path}: {len(lines)} rows {what} as too long: lines {shown}"


def _settings(config: TrainConfig, files: dict[str, DataFile], base: LoadedBase) -> dict[str, Any]:
    return config.settings() | {
        "base_identity": base.identity,
        "dtype": str(base.model.dtype),
        "device": base.model.device.type,
        **{f"{name}_sha256": file.sha256 for name, file in files.items()},
    }


def _check_start(saved: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> None:
    """The base that a resumed run trains against must be the changed one of before."""
    for name, tensor in saved.items():
        if not tensor.equal(now[name]):
            raise TrainingError(
                f"{name} starts differently on this machine: the run cannot be gone on with here"
            )


def _result(config: TrainConfig, loop: Loop, rows: _Rows, stopped: str) -> TrainResult:
    return TrainResult(
        adapter=config.out,
        losses=loop.metrics.series("loss"),
        eval_losses=loop.metrics.series("eval_loss"),
        steps=loop.step,
        stopped=stopped,
        tokens_per_s=loop.tokens / max(loop.seconds, 1e-9),
        seconds=loop.seconds,
        rows=len(rows.examples),
        cut=rows.cut,
        skipped=rows.skipped,
        held_out=rows.held_out[0].row if rows.held_out else None,
        notes=rows.notes,
        weights_step=loop.weights_step,
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
