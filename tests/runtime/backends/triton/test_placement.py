"""Adapters in slots: what the table says of them, and that no step reads what has not come yet or
is gone."""

from __future__ import annotations

import ctypes
import random
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch

from lora_runtime import AdapterCapacityError
from lora_runtime.backends.streams import CopyStream, HostCopyStream
from lora_runtime.backends.triton.placement import (
    FlatAdapter,
    FlatDeltas,
    Placer,
    SlotAdapter,
    layer_of,
)
from lora_runtime.kernels.slot_table import SlotTable
from lora_runtime.kernels.updates import ModuleDelta
from lora_runtime.modules import BaseModule, ModuleKind

from ....support.device_path import free_slots
from ....support.streams import DeferredCopies

CPU = torch.device("cpu")
WIDTH, OUT, LAYERS, VOCAB = 6, 10, 3, 20
LINEAR, HEAD, EMBEDDING, NORM = (
    ModuleKind.LINEAR,
    ModuleKind.LM_HEAD,
    ModuleKind.EMBEDDING,
    ModuleKind.NORM,
)
LINEARS = {
    f"model.layers.{i}.{name}": BaseModule(LINEAR, WIDTH, OUT, False)
    for i in range(LAYERS)
    for name in "qk"
}
MODULES = LINEARS | {"lm_head": BaseModule(HEAD, WIDTH, VOCAB, False)}


def lora(rank: int, seed: int = 0, out: int = OUT, kind: ModuleKind = LINEAR) -> ModuleDelta:
    g = torch.Generator().manual_seed(seed)
    return ModuleDelta(
        kind,
        out,
        torch.randn(rank, WIDTH, generator=g),
        torch.randn(out, rank, generator=g),
        0.5 + seed,
    )


def adapter(seed: int, rank: int = 2) -> dict[str, ModuleDelta]:
    return {name: lora(rank, seed * 100 + i) for i, name in enumerate(LINEARS)}


def placer(slots: int = 4, copies: CopyStream | None = None) -> Placer:
    return Placer(MODULES, slots, torch.float32, copies or HostCopyStream(CPU), min_copy=0)


def floats_at(address: int, count: int) -> torch.Tensor:
    return torch.tensor((ctypes.c_float * count).from_address(address)[:])


def read(table: SlotTable, slot: int) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """A slot's A, B and scaling by module, found as a kernel finds them: by the addresses on the
    device."""
    found = {}
    for name, m in table.module_index.items():
        rank, a, b = int(table.ranks[slot, m]), *table.addresses[slot, :2, m].tolist()
        if a:
            out = table.modules[name].out_features
            found[name] = (
                floats_at(a, rank * WIDTH).view(rank, WIDTH),
                floats_at(b, out * rank).view(out, rank),
                float(table.scalings[slot, m]),
            )
    return found


def assert_holds(table: SlotTable, slot: int, deltas: Mapping[str, Any]) -> None:
    found = read(table, slot)
    assert found.keys() == deltas.keys()
    for name, delta in deltas.items():
        a, b, scaling = found[name]
        assert torch.equal(a, delta.a), name
        assert torch.equal(b, delta.b), name
        assert scaling == delta.scaling, name


def test_the_table_points_to_what_was_placed() -> None:
    slots = placer()
    gain, bias, dense = torch.randn(OUT), torch.randn(OUT), torch.randn(VOCAB, WIDTH)
    deltas = {
        "model.layers.0.q": lora(1),
        "model.layers.2.k": lora(5, 1),
        "model.layers.1.q": ModuleDelta(LINEAR, OUT, gain=gain, bias=bias),
        "lm_head": ModuleDelta(HEAD, VOCAB, dense=dense),
    }
    addresses = [
        t.data_ptr() for t in (slots.table.addresses, slots.table.ranks, slots.table.scalings)
    ]
    placed = slots.place(FlatAdapter(deltas))
    assert not slots.table.addresses.any()  # the device's, until a step begins
    slots.flush()
    table, slot = slots.table, placed.slot
    for name, delta in deltas.items():
        m = table.module_index[name]
        assert table.tensors(slot, m) is placed.deltas[name]
        for field, part in (
            (table.A, "a"),
            (table.B, "b"),
            (table.GAIN, "gain"),
            (table.BIAS, "bias"),
            (table.DENSE, "dense"),
        ):
            expected, address = getattr(delta, part), int(table.addresses[slot, field, m])
            assert (expected is None) == (address == 0)
            if expected is not None:
                assert torch.equal(floats_at(address, expected.numel()), expected.flatten())
    assert table.tensors(slot, table.module_index["model.layers.0.k"]) is None
    assert (table.max_rank(slot), placed.rare) == (5, frozenset())
    slots.remove(placed)
    assert (table.max_rank(slot), table.tensors(slot, 0)) == (0, None)
    slots.flush()
    assert not table.addresses.any()
    assert not table.ranks.any()
    assert not table.scalings.any()
    assert addresses == [t.data_ptr() for t in (table.addresses, table.ranks, table.scalings)]


def test_only_what_changed_is_written() -> None:
    copies = DeferredCopies()
    slots = placer(copies=copies)
    kept, other = (slots.place(FlatAdapter(adapter(i))) for i in range(2))
    slots.flush()
    assert len(copies.step.work) == 6  # three arrays for each
    copies.run()
    slots.flush()
    assert not copies.step.work
    slots.remove(other)
    copies.run()
    slots.flush()
    assert len(copies.step.work) == 3
    copies.run()
    assert read(slots.table, kept.slot).keys() == LINEARS.keys()


def test_what_the_planned_kernels_cannot_do_is_named_and_not_in_the_table() -> None:
    ids, rows = torch.tensor([3], dtype=torch.int32), torch.randn(1, WIDTH)
    rare = {
        "model.embed": ModuleDelta(EMBEDDING, VOCAB, dense=torch.randn(VOCAB, WIDTH)),
        "model.layers.0.norm": ModuleDelta(NORM, WIDTH, dense=torch.randn(WIDTH)),
        "model.layers.1.other": lora(3),
        "lm_head": lora(2, out=VOCAB + 1, kind=HEAD),
    }
    slots = placer()
    placed = slots.place(FlatAdapter(rare | {"model.layers.0.q": lora(1)}))
    assert placed.rare == rare.keys()
    slots.flush()
    assert read(slots.table, placed.slot).keys() == {"model.layers.0.q"}
    assert placed.deltas["lm_head"].out == VOCAB + 1
    head = ModuleDelta(HEAD, VOCAB, token_ids=ids, token_rows=rows)
    assert slots.place(FlatAdapter({"lm_head": head})).rare == {"lm_head"}
    with pytest.raises(ValueError, match="norm"):
        Placer(
            {"norm": BaseModule(NORM, WIDTH, WIDTH, False)}, 1, torch.float32, HostCopyStream(CPU)
        )


def test_a_staged_adapter_is_one_buffer_in_the_order_of_layers() -> None:
    shared = torch.randn(VOCAB, WIDTH)
    deltas = {
        "lm_head": ModuleDelta(HEAD, VOCAB, dense=shared, bias=torch.randn(VOCAB)),
        "model.layers.11.q": lora(3),
        "model.layers.2.q": lora(1, 1),
        "norm": ModuleDelta(NORM, 6, dense=torch.ones(6)),
        "model.embed": ModuleDelta(EMBEDDING, VOCAB, dense=shared),
    }
    staged = FlatAdapter(deltas)
    at = {
        name: [t.data_ptr() - staged.buffer.data_ptr() for t in d.tensors().values()]
        for name, d in staged.on(staged.buffer).items()
    }
    assert at["lm_head"].count(at["model.embed"][0]) == 1  # it is there once
    own = [start for name, starts in at.items() for start in starts if name != "model.embed"]
    assert all(start % 256 == 0 for start in own)
    assert len(set(own)) == len(own) == 7
    assert staged.num_bytes == staged.buffer.nbytes == 512 + 6 * 256
    first = {
        layer: min(at[n][0] for n in names)
        for layer, names in (
            (-1, ["model.embed"]),
            (2, ["model.layers.2.q"]),
            (11, ["model.layers.11.q"]),
        )
    }
    assert staged.layers[:3] == sorted(first.items())
    for name, delta in staged.on(staged.buffer.clone()).items():
        assert (delta.kind, delta.out, delta.scaling) == (
            deltas[name].kind,
            deltas[name].out,
            deltas[name].scaling,
        )
        for part, tensor in delta.tensors().items():
            assert torch.equal(tensor, deltas[name].tensors()[part])
    whole = [(last, start, end) for last, start, end in staged.copies(0)]
    assert [start for _, start, _ in whole[1:]] == [end for _, _, end in whole[:-1]]
    assert (whole[0][1], whole[-1][2], len(whole)) == (0, staged.num_bytes, 4)
    assert len(list(staged.copies(1 << 20))) == 1
    assert FlatAdapter({}).num_bytes == 0


def test_an_adapter_that_changes_nothing_takes_a_slot_all_the_same() -> None:
    copies = DeferredCopies()
    slots = placer(slots=1, copies=copies)
    placed = slots.place(FlatAdapter({}))
    assert (placed.num_bytes, placed.rare, dict(placed.deltas)) == (0, frozenset(), {})
    placed.wait(0)
    placed.wait()
    slots.flush()
    copies.run()
    assert read(slots.table, placed.slot) == {}
    slots.remove(placed)
    assert free_slots(slots) == [0]


def test_tensors_are_made_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    deltas = adapter(1) | {"model.norm": ModuleDelta(NORM, WIDTH, dense=torch.ones(WIDTH))}
    staged = FlatAdapter(deltas)
    one = FlatDeltas.__getitem__

    def noted(deltas: FlatDeltas, name: str) -> ModuleDelta:
        made.append(name)
        return one(deltas, name)

    monkeypatch.setattr(FlatDeltas, "__getitem__", noted)
    slots = placer()
    placed = slots.place(staged)
    slots.flush()
    assert placed.rare == {"model.norm"}
    assert "model.norm" in placed.deltas
    assert placed.deltas.keys() == placed.names == deltas.keys()
    assert made == []
    assert_holds(slots.table, placed.slot, adapter(1))
    assert torch.equal(placed.deltas["model.norm"].tensors()["dense"], torch.ones(WIDTH))
    index = slots.table.module_index["model.layers.1.q"]
    assert slots.table.tensors(placed.slot, index) is slots.table.tensors(placed.slot, index)
    assert made == ["model.norm"] + ["model.layers.1.q"] * 2
    with pytest.raises(KeyError):
        placed.deltas["model.layers.9.q"]


def test_what_is_placed_does_not_keep_what_was_staged() -> None:
    slots, staged = placer(), FlatAdapter(adapter(1))
    placed = slots.place(staged)
    buffer = weakref.ref(staged.buffer)
    del staged
    assert buffer() is None  # its host memory is free, as the store counts it
    assert placed.deltas["model.layers.0.q"].rank == 2


@pytest.mark.parametrize(
    ("name", "kind", "layer"),
    [
        ("model.layers.7.mlp.experts.3.up_proj", LINEAR, 7),
        ("transformer.h.0.attn.c_attn", LINEAR, 0),
        ("model.embed_tokens", EMBEDDING, -1),
        ("transformer.wpe.0", LINEAR, 0),
    ],
)
def test_layers_are_found_in_paths(name: str, kind: ModuleKind, layer: int) -> None:
    assert layer_of(name, kind) == layer
    assert layer_of("model.norm", NORM) > 1000
    assert layer_of("lm_head", HEAD) > 1000


def test_a_step_waits_for_the_layer_that_it_reads() -> None:
    copies = DeferredCopies()
    slots = placer(copies=copies)
    placed = slots.place(FlatAdapter(adapter(1)))
    seen: list[int] = []
    for layer in (None, *range(LAYERS)):
        if layer is not None:
            placed.wait(layer)
            copies.step.enqueue(partial(seen.append, layer))
    copies.step.run()
    assert seen == []
    for layer in range(LAYERS):
        assert copies.side.advance()  # the copy
        copies.step.run()
        assert seen == list(range(layer))
        assert copies.side.advance()  # its event
        copies.step.run()
        assert seen == list(range(layer + 1))
    placed.wait(None)
    assert not copies.step.work  # nothing to wait for any more


def test_waiting_for_a_layer_without_tensors_or_for_all() -> None:
    copies = DeferredCopies()
    slots = placer(copies=copies)
    parts = {
        "model.layers.0.q": lora(1),
        "model.layers.2.q": lora(1),
        "lm_head": lora(1, out=VOCAB, kind=HEAD),
    }
    for layer, copied in ((-1, 1), (0, 1), (2, 2), (99, 3), (None, 3)):
        placed = slots.place(FlatAdapter(parts))
        seen: list[int] = []
        placed.wait(layer)
        copies.step.enqueue(partial(seen.append, 1))
        for _ in range(2 * copied - 1):
            copies.side.advance()
        copies.step.run()
        assert not seen, layer
        copies.run()
        assert seen
        slots.remove(placed)


def test_memory_is_kept_until_no_step_reads_it_and_the_slot_is_not() -> None:
    copies = DeferredCopies()
    slots = placer(slots=1, copies=copies)
    one, two = adapter(1), adapter(2)
    first = slots.place(FlatAdapter(one))
    slots.flush()
    first.wait()
    copies.step.enqueue(
        lambda: assert_holds(slots.table, 0, one)
    )  # a step that the device has not come to
    slots.remove(first)
    assert copies.released == []
    second = slots.place(FlatAdapter(two))
    assert second.slot == first.slot == 0
    slots.flush()
    second.wait()
    copies.step.enqueue(lambda: assert_holds(slots.table, 0, two))
    copies.run()
    slots.flush()
    assert len(copies.released) == 1
    slots.remove(second)
    copies.run()
    slots.flush()
    assert len(copies.released) == 2
    copies.run()
    assert read(slots.table, 0) == {}


def test_removed_before_it_came() -> None:
    copies = DeferredCopies()
    slots = placer(slots=1, copies=copies)
    slots.remove(slots.place(FlatAdapter(adapter(1))))  # no step was ever run: nothing reads it
    assert len(copies.released) == 1
    two = adapter(2)
    placed = slots.place(FlatAdapter(two))  # in the same memory, behind the first one's copies
    slots.flush()
    placed.wait()
    copies.run()
    assert_holds(slots.table, placed.slot, two)


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_loads_removals_and_steps(seed: int) -> None:
    """Steps read by address, late; memory is taken again as soon as may be and poisoned before."""
    chance, copies = random.Random(seed), DeferredCopies()
    slots = placer(slots=3, copies=copies)
    placed: dict[SlotAdapter, dict[str, ModuleDelta]] = {}
    checked: list[int] = []

    def check(slot: int, deltas: dict[str, ModuleDelta]) -> None:
        assert_holds(slots.table, slot, deltas)
        checked.append(slot)

    for i in range(120):
        action = chance.random()
        if action < 0.25 and len(placed) < 3:
            deltas = adapter(i, rank=chance.randint(1, 3))
            placed[slots.place(FlatAdapter(deltas))] = deltas
        elif action < 0.45 and placed:
            gone = chance.choice(list(placed))
            del placed[gone]
            slots.remove(gone)
        elif action < 0.75:
            slots.flush()
            for taken in chance.sample(list(placed), chance.randint(0, len(placed))):
                taken.wait()
                copies.step.enqueue(partial(check, taken.slot, placed[taken]))
        copies.run_some(chance)
    copies.run()
    assert checked
    for last in placed:
        slots.remove(last)
    copies.run()
    slots.flush()
    copies.run()
    assert not slots.table.addresses.any()
    assert (copies.free, slots._leaving) == (1 << 30, [])


def test_a_place_without_slot_or_memory_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    staged = FlatAdapter(adapter(1))
    copies = DeferredCopies(capacity=staged.num_bytes)
    slots = placer(slots=2, copies=copies)
    first = slots.place(staged)
    for _ in range(3):  # or the second slot would be lost
        with pytest.raises(AdapterCapacityError, match=f"{staged.num_bytes} bytes"):
            slots.place(staged)
    slots.remove(first)
    second = slots.place(FlatAdapter({"model.layers.0.q": lora(1)}))
    with monkeypatch.context() as broken:
        broken.setattr(copies, "copy", lambda to, source: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            slots.place(FlatAdapter({"model.layers.0.q": lora(1)}))
    slots.place(FlatAdapter({"model.layers.1.q": lora(1)}))
    with pytest.raises(AdapterCapacityError, match="slot"):
        slots.place(FlatAdapter({"model.layers.0.q": lora(1)}))
    slots.flush()
    copies.run()
    assert read(slots.table, second.slot).keys() == {"model.layers.0.q"}


def test_loads_on_many_threads_beside_steps() -> None:
    slots = placer(slots=8)
    failures: list[Exception] = []

    def load(seed: int) -> None:
        try:
            for i in range(30):
                deltas: dict[str, Any] = adapter(seed * 30 + i)
                placed: Any = slots.place(FlatAdapter(deltas))
                assert all(torch.equal(placed.deltas[n].b, d.b) for n, d in deltas.items())
                slots.remove(placed)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=load, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        slots.flush()
    slots.flush()
    assert failures == []
    assert not slots.table.addresses.any()
    assert sorted(free_slots(slots)) == list(range(8))
