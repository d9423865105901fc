"""The sweep of tile sizes: every variant is launched as it says, held against the default, and
leaves no trace."""

from __future__ import annotations

import torch

from benchmarks.gpu.cost import LLAMA_8B
from benchmarks.gpu.places import Place, drawn, places
from benchmarks.gpu.sweeping import lora
from benchmarks.gpu.sweeping.tiles import DECODE, DEFAULT, EXPAND, PREFILL, SHRINK, Tiles
from lora_runtime.kernels import plan
from lora_runtime.kernels.triton import lora_tiles
from tests.support.device import DEVICE, ON_GPU

DTYPE = torch.bfloat16 if ON_GPU else torch.float32
ROWS = lora.Rows("3", (2, 1), 4, decode=True)


def test_another_tile_gives_the_same_and_a_wrong_one_is_told() -> None:
    with torch.inference_mode():
        make = drawn(torch.device(DEVICE), DTYPE)
        given = lora.sweep_of(Place("tiny", 256, (64, 32)), ROWS, make, DTYPE.itemsize, small=True)
        default = given.result(DEFAULT)
        assert lora.compare_exactly(default, given.exact())["good"]
        other = given.result(Tiles((("outputs", 32), ("rank_programs", 1)), splits=1))
        assert lora.compare(other, default)["good"]
        other[1, 40:48] = 0
        assert not lora.compare(other, default)["good"]


def test_a_variant_holds_while_it_is_applied() -> None:
    before = lora_tiles.DECODE, plan.DECODE_SPLITS
    with Tiles((("outputs", 512),), splits=16).applied(decode=True):
        assert (lora_tiles.DECODE.outputs, plan.DECODE_SPLITS) == (512, 16)
        assert plan.splits(4096, plan.DECODE_TILE) == (16, 256)
    assert before == (lora_tiles.DECODE, plan.DECODE_SPLITS)


def test_variants_are_told_apart_and_start_with_the_default() -> None:
    for variants in (*DECODE.values(), *PREFILL.values()):
        assert variants[0] == DEFAULT
        assert len({tiles.name for tiles in variants}) == len(variants)


def test_each_kernel_is_compiled_once() -> None:
    rows = [
        lora.Rows("32", (1,) * 32, 16, decode=True),
        lora.Rows("128", (4,) * 32, 16, decode=True),
    ]
    kernels = lora.kernels_of(places(LLAMA_8B)[0], rows, DTYPE)
    assert len(kernels) < len(DECODE[SHRINK]) + len(
        DECODE[EXPAND]
    )  # programs alone make no other kernel
    assert len({kernel.name for kernel in kernels}) == len(kernels)
