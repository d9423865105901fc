"""The base as backends open it: read once, and again only if one of them has used it up."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..config import BaseConfig
from ..errors import BaseModelError
from .frozen import FrozenModel, LinearHook
from .loading import Split, identity_of, read_base, resolve_device, resolve_dtype
from .response_template import read_template
from .source import check_source


class BaseFiles:
    """A base's directory or hub id, and the settings that it is loaded with."""

    can_read_again = True
    """False if a model that a backend has used up cannot be had again."""

    def __init__(
        self, source: str | os.PathLike[str], config: BaseConfig, *, lora: bool = True
    ) -> None:
        self.source, self.config, self.lora = os.fspath(source), config, lora
        self._frozen: FrozenModel | None = None

    @cached_property
    def device(self) -> torch.device:
        """Device that the base goes to.

        Raises BaseModelError for one that is not there, and for files that are not.
        """
        check_source(self.source, self.config.trust_hub)
        if self.config.response_template:
            read_template(self.config.response_template)  # before the weights are read
        return resolve_device(self.config.device)

    def read(self) -> FrozenModel:
        """Read the model; another call gives the same.

        Raises BaseModelError when it cannot be loaded or served.
        """
        if self._frozen is None:
            self._frozen = self.read_part()
        return self._frozen

    def read_part(
        self, split: Split | None = None, linear_hook: LinearHook | None = None
    ) -> FrozenModel:
        """Read the part of the model that `split` reads.

        Linear maps take adapters through `linear_hook`. Raises as `read`.
        """
        path = Path(self.source)
        model, tokenizer = self._load(split)
        name = path.name if path.is_dir() else self.source
        return FrozenModel(
            model,
            tokenizer,
            name,
            identity_of(path, model),
            self.config,
            lora=self.lora,
            linear_hook=linear_hook,
        )

    def under(self, config: BaseConfig) -> BaseFiles:
        """The same files under other settings. Raises BaseModelError where there are none."""
        return BaseFiles(self.source, config, lora=self.lora)

    def forget(self) -> None:
        """Forget the model, which is used up: the next call of `read` loads it anew."""
        self._frozen = None

    def _load(self, split: Split | None) -> tuple[Any, Any]:
        dtype = resolve_dtype(self.config.dtype, self.device)
        return read_base(self.source, dtype, self.device, split, attention="eager")


class LoadedBase(BaseFiles):
    """A model that the caller has in memory already, such as one with random weights."""

    can_read_again = False

    def __init__(self, frozen: FrozenModel, config: BaseConfig) -> None:
        super().__init__(frozen.name, config, lora=frozen.takes_adapters)
        self.device = frozen.device
        self._frozen = frozen

    def read_part(
        self, split: Split | None = None, linear_hook: LinearHook | None = None
    ) -> FrozenModel:
        """Refuse: it cannot be read again. Raises BaseModelError."""
        raise BaseModelError(
            f"the model {self.source!r}, given in memory, was used up by the C++ kernels, which compute "
            "it otherwise: make it anew, and give kernels 'torch'"
        )

    def under(self, config: BaseConfig) -> BaseFiles:
        """Refuse: it has no files. Raises BaseModelError."""
        raise BaseModelError("tensor_parallel: a base is split while it is read from its files")
