"""Masks of tokens: all rows at once give what the reference gives for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lora_runtime.kernels.token_masks import _is_out, mask_tokens, mask_tokens_reference


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 258, 1000])
@pytest.mark.parametrize("words", [-1, 0, 2])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [2], [3, 1]])
def test_equals_the_reference(vocab: int, words: int, rows: list[int]) -> None:
    random = np.random.default_rng(vocab)
    logits = torch.from_numpy(random.normal(size=(4, vocab)).astype(np.float32))
    width = max(1, -(-vocab // 32) + words)
    masks = [random.integers(0, 1 << 32, width, np.uint32) for _ in rows]
    masks[0][0] |= 1 << 31  # the sign of an int32
    expected = logits.clone()
    for row, mask in zip(rows, masks, strict=True):
        expected[row] = mask_tokens_reference(logits[row], mask)
    packed = np.zeros((len(rows), width + 1), np.uint32)
    packed[:, :width] = masks
    on_device = _is_out(torch.from_numpy(packed.view(np.int32)), vocab)
    for row, is_out in zip(rows, on_device, strict=True):
        assert torch.equal(is_out, expected[row, : is_out.numel()].isinf())
    mask_tokens(logits, rows, masks)
    assert torch.equal(logits, expected)
