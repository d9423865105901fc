"""Overlap of leading singular directions of two adapters: phi of the LoRA paper (arXiv:2106.09685,
equation 4)."""

from __future__ import annotations

import torch


def phi(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(k, n) of phi(i, j) = |U_i^T V_j|_F^2 / min(i, j), i = 1..k and j = 1..n.

    `one` (k, width) and `other` (n, width) have orthonormal rows, leading directions first. 1: the
    smaller space lies in the other; of two random ones phi(i, j) is about max(i, j) / width.
    """
    shared = (one @ other.T).square().cumsum(0).cumsum(1)
    i, j = (torch.arange(1, n + 1, dtype=shared.dtype) for n in shared.shape)
    return shared / torch.minimum(i[:, None], j[None, :])


def directions_of_a(a: torch.Tensor) -> torch.Tensor:
    """Right singular vectors of A (rank, in), as rows: what the paper compares."""
    return torch.linalg.svd(a.float(), full_matrices=False).Vh


def directions_of_update(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Right singular vectors of B A without making it, as rows (rank, in): inputs that the update
    answers to.

    B A = Q (R A) with orthonormal Q, so R A has the same ones.
    """
    return torch.linalg.svd(torch.linalg.qr(b.float()).R @ a.float(), full_matrices=False).Vh


def singular_values(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of B A, (rank,), largest first."""
    return torch.linalg.svdvals(torch.linalg.qr(b.float()).R @ a.float())
