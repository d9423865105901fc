"""Reader of one PEFT adapter directory; every tensor is applied or the adapter is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from ...errors import AdapterError, AdapterMissingError, BaseMismatchError
from ...foreign.process import WorkLimits
from ...modules import BaseDescription
from .absent import CONFIG, without_config
from .assemble import Assembled, assemble
from .config import MAX_CONFIG_BYTES, LoraSpec, decode_config, parse_config
from .effect import without_effect
from .files import MissingFileError, read_limited
from .generation import read_ends
from .keys import place
from .read_budget import ReadShare
from .safetensors_file import OpenTensors, open_tensors
from .shapes import Shapes
from .shards import OpenShards, open_shards
from .shards_index import WEIGHTS
from .targets import resolve
from .tokenizer.ends import endings
from .tokenizer.reading import OwnTokenizer, read_tokenizer
from .update import CheckedAdapter


def read_adapter(
    directory: Path,
    base: BaseDescription,
    *,
    max_bytes: int,
    max_added_tokens: int,
    roots: Sequence[Path] = (),
    share: ReadShare | None = None,
    tokenizer_limits: WorkLimits = WorkLimits(),  # noqa: B008 - it is frozen
    allow_unknown_fields: bool = False,
) -> CheckedAdapter:
    """Read and check; each file is read once, so what is hashed is what is applied.

    Never unpickles. `max_bytes` limits the file of tensors, `share` says when its data may be read;
    with `roots`, files that lead out of them by links are refused. `tokenizer_limits` are those of
    the worker that reads its tokenizer; `allow_unknown_fields` as `parse_config` has it. Raises
    AdapterError naming what is missing, corrupt or unsupported, and BaseMismatchError when the
    modules or shapes are not the base's.
    """
    config_bytes, spec = read_spec(directory, roots, allow_unknown_fields)
    made_for = f"the adapter was made for {spec.base_model_name!r}, the base is {base.name!r}"
    with open_weights(directory, max_bytes, roots) as weights:
        outlines = weights.outlines()
        layout = place(outlines, base.modules, made_for)
        targets = resolve(spec, base.modules, layout.names)
        put_together = partial(
            assemble,
            spec,
            targets,
            layout,
            shapes=Shapes(base.modules, made_for),
            max_added_rows=max_added_tokens,
        )
        # Without values: what is refused by its names and shapes is refused before it is read.
        added_rows = put_together(outlines).added_rows
        vocabulary = _vocabulary(spec, base, added_rows)
        own = read_tokenizer(directory, base.tokenizer, vocabulary, roots, tokenizer_limits)
        generation = read_ends(directory, vocabulary, roots)
        _check_rows(vocabulary, base, own, made_for)
        file = weights.read(share)
    done = put_together(file.tensors)
    warnings = without_effect(spec, targets, layout.names, done.updates)
    ends = endings(own.tokenizer, own.turn_end, generation, base.eos_token_ids)
    return CheckedAdapter(
        version=_version(
            base.identity,
            hashlib.sha256(config_bytes).digest(),
            file.digest,
            own.digest,
            generation.digest,
        ),
        base_model_name=spec.base_model_name,
        updates=done.updates,
        modules=done.modules,
        invocation_tokens=spec.invocation_tokens,
        vocab_size=vocabulary if added_rows else 0,
        tokenizer=own.tokenizer,
        eos_ids=ends.ids,
        turn_ends=ends.turns,
        notes=(
            *warnings,
            *spec.notes,
            *targets.notes,
            *rows_note(done, base.vocab_size),
            *unused_note(done.unused),
            *own.notes,
            *ends.notes,
        ),
        warnings=warnings,
    )


def read_spec(
    directory: Path, roots: Sequence[Path] = (), allow_unknown_fields: bool = False
) -> tuple[bytes, LoraSpec]:
    """Read adapter_config.json, and what it means."""
    try:
        data = read_limited(directory / CONFIG, MAX_CONFIG_BYTES, roots)
    except MissingFileError as error:
        raise AdapterMissingError(without_config(directory, roots)) from error
    return data, parse_config(decode_config(data), allow_unknown_fields)


@contextmanager
def open_weights(
    directory: Path, max_bytes: int, roots: Sequence[Path] = ()
) -> Iterator[OpenTensors | OpenShards]:
    """Open adapter_model.safetensors, or else the shards of it, and read the headers."""
    with ExitStack() as stack:
        weights: OpenTensors | OpenShards
        try:
            weights = stack.enter_context(open_tensors(directory / WEIGHTS, max_bytes, roots))
        except MissingFileError:
            weights = stack.enter_context(open_shards(directory, max_bytes, roots))
        yield weights


def _vocabulary(spec: LoraSpec, base: BaseDescription, added_rows: int) -> int:
    """Size of the vocabulary with the added rows, which the config's tokens must be within."""
    vocabulary = base.vocab_size + added_rows
    if bad := [t for t in spec.invocation_tokens if t >= vocabulary]:
        raise AdapterError(
            f"alora_invocation_tokens: token {bad[0]} is outside the vocabulary of {vocabulary}"
        )
    return vocabulary


def _check_rows(vocabulary: int, base: BaseDescription, own: OwnTokenizer, made_for: str) -> None:
    """Check that fewer rows than the base's are enough for the tokenizer: for whose number of tokens,
    with added ones or without, trainers cut a padded vocabulary."""
    tokenizers = [t for t in (own.tokenizer, base.tokenizer) if t is not None]
    tokens = min((t.vocab_size for t in tokenizers), default=0)
    if vocabulary < min(tokens, base.vocab_size):
        raise BaseMismatchError(
            f"embeddings and lm_head have {vocabulary} rows, the tokenizer has {tokens} tokens and "
            f"the base model {base.vocab_size} rows: {made_for}"
        )


def rows_note(done: Assembled, base_rows: int) -> list[str]:
    """Give at most one note, on rows of the vocabulary that are not in the file."""
    made = [module.name for module in done.modules if "rows" in module.parts]
    if done.added_rows < 0:
        return [
            f"{base_rows + done.added_rows} of the base's {base_rows} tokens are in the vocabulary: "
            "the others are never sampled, and refused in prompts"
        ]
    if made:
        return [
            f"the {done.added_rows} rows added to {' and '.join(made)} are not in the file: those that "
            "were not trained are the mean of the base's rows, as transformers' resizing makes them"
        ]
    return []


def unused_note(unused: Sequence[str]) -> list[str]:
    """Give at most one note, on values of the base that PEFT keeps beside the adapter's."""
    count = len(unused)
    return (
        [f"{count} tensors have no effect, copies of the base's own, such as {unused[0]!r}"]
        if count
        else []
    )


def _version(identity: str, *digests: bytes) -> str:
    digest = hashlib.sha256(identity.encode())
    for part in digests:
        digest.update(part)
    return digest.hexdigest()
