// Segmented LoRA (arXiv:2106.09685): y[rows] += s * B (A x[rows]), every adapter at its true rank.
#pragma once

#include <cstddef>

#include "simd.h"

namespace lm {

// One projection of one adapter, packed by pack_lora into one stream in the order of use, so that the
// processor's own prefetching keeps up: in decode each adapter comes from memory once a step.
struct LoraEntry {
    const void* a;
    const void* b;
    int32_t rank;  // 0: the adapter does not target this projection
    float scaling;
};

// Rows start..end-1 take `weight` times the adapter's update. Segments may overlap.
struct Segment {
    const LoraEntry* table;  // one entry per module
    int32_t start, end;
    float weight;
    int32_t unused;
};

// Floats of scratch that lora_rows needs for a rank.
inline size_t lora_scratch(int rank) { return 4 * size_t(rank + 1); }

// Adds the update of one projection to `m` rows. A row's arithmetic does not depend on its neighbours.
template <class T>
void lora_rows(const LoraEntry& e, float weight, const T* x, size_t ldx, int in, int m, float* y, size_t ldy,
               int out, float* scratch);

// Bytes of packed A (rank, in) and B (out, rank).
template <class T>
size_t lora_a_bytes(int rank, int in);
template <class T>
size_t lora_b_bytes(int rank, int out);

// a (rank, in) and b (out, rank), row-major. A: groups of 8, 4, 2 or 1 ranks, in each a vector of every rank
// in turn. B: chunks of 12 or 1 vectors of outputs, in each the units of rank in turn, where a unit holds two
// neighbouring ranks for bf16. What is missing to a vector or a unit is zero.
template <class T>
void pack_lora(const T* a, const T* b, int rank, int in, int out, T* packed_a, T* packed_b);

}  // namespace lm
