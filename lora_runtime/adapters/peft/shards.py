"""Weights in shards: adapter_model.safetensors.index.json, and the files that it names."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from ...errors import AdapterError
from . import safetensors_header
from .absent import without_weights
from .files import MissingFileError, check_size, open_regular, read_limited
from .read_budget import ReadShare
from .safetensors_file import OpenTensors, TensorFile
from .shards_index import INDEX, MAX_INDEX_BYTES, WEIGHTS, parse_index


class OpenShards:
    """Open shards of which the headers were read: what OpenTensors is of one file."""

    def __init__(self, shards: Sequence[OpenTensors], digest: bytes) -> None:
        self._shards, self._digest = shards, digest

    @property
    def data_bytes(self) -> int:
        return sum(shard.data_bytes for shard in self._shards)

    def outlines(self) -> dict[str, torch.Tensor]:
        return {name: t for shard in self._shards for name, t in shard.outlines().items()}

    def read(self, share: ReadShare | None = None) -> TensorFile:
        """Read all, once `share` allows it, and raise as OpenTensors does; the digest is that of
        the index and all shards."""
        if share is not None:
            share.take(self.data_bytes)
        tensors: dict[str, torch.Tensor] = {}
        digest = hashlib.sha256(self._digest)
        for shard in self._shards:
            file = shard.fill(share)
            tensors |= file.tensors
            digest.update(file.digest)
        return TensorFile(tensors, digest.digest())


@contextmanager
def open_shards(
    directory: Path, max_bytes: int, roots: Sequence[Path] = ()
) -> Iterator[OpenShards]:
    """Open the shards that the index names and read their headers, which have one file's limits
    together.

    Raises AdapterError for a directory without an index, a shard that is missing, and tensors that
    are not where the index says, once each.
    """
    try:
        data = read_limited(directory / INDEX, MAX_INDEX_BYTES, roots)
    except MissingFileError as error:
        raise AdapterError(without_weights(directory, roots)) from error
    with ExitStack() as stack:
        shards, size, header = [], 0, 0
        for file, names in sorted(parse_index(data).items()):
            path = directory / file
            try:
                stream, more = stack.enter_context(open_regular(path, roots))
            except MissingFileError as error:
                raise AdapterError(f"{INDEX} names {file!r}, which is missing") from error
            size += more
            check_size(Path("all shards together"), size, max_bytes)
            left = safetensors_header.MAX_HEADER_BYTES - header
            shard = OpenTensors(stream, path, more, left)
            header += shard.header_bytes
            _check_names(file, set(names), set(shard.names))
            shards.append(shard)
        yield OpenShards(shards, hashlib.sha256(data).digest())


def missing_weights(directory: Path, names: Collection[str]) -> str:
    """Name of the first file of the weights that is not among the directory's `names`, or "".

    Empty too for an index that is none: the load says why.
    """
    if WEIGHTS in names:
        return ""
    if INDEX not in names:
        return WEIGHTS
    try:
        files = parse_index(read_limited(directory / INDEX, MAX_INDEX_BYTES))
    except AdapterError:
        return ""
    return next((file for file in sorted(files) if file not in names), "")


def _check_names(file: str, wanted: set[str], held: set[str]) -> None:
    """Check that a shard holds what the index has of it: so no two hold the same tensor."""
    if missing := sorted(wanted - held):
        raise AdapterError(f"{file} does not hold the tensor {missing[0]!r} that {INDEX} has in it")
    if more := sorted(held - wanted):
        raise AdapterError(
            f"{file} holds the tensor {more[0]!r}, which {INDEX} does not have in it"
        )
