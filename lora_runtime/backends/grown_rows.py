"""Weights of a vocabulary that an adapter has made larger without saving all of its rows."""

from __future__ import annotations

import torch

from ..model.weights import BaseTensors, chunks


class GrownWeights:
    """Weights of one adapter: the base's rows, and the mean of them for each that is added.

    So transformers' resize_token_embeddings starts new rows (but for noise of a billionth of the
    variance), and what was not trained stays at it. One tensor for an embedding and the lm_head
    that is tied to it.
    """

    def __init__(self, base: BaseTensors) -> None:
        self._base = base
        self._made: dict[str, torch.Tensor] = {}

    def weight(self, name: str, rows: int, own_rows: int, columns: int) -> torch.Tensor:
        """The weight (rows, columns) in the base's dtype; the base's own has `own_rows`."""
        key = self._base.modules[name].tied_to or name
        if key not in self._made:
            made = torch.empty(rows, columns, dtype=self._base.dtype)
            total = torch.zeros(columns, dtype=torch.float64)
            for start, end in chunks(own_rows, columns):
                own = self._base.rows(name, start, end).cpu()
                made[start:end] = own.to(made.dtype)
                total += own.double().sum(0)
            made[own_rows:] = (total / own_rows).to(made.dtype)
            self._made[key] = made
        return self._made[key]
