// Segmented LoRA (arXiv:2106.09685): y[rows] += s * B (A x[rows]), every adapter at its true rank.
#pragma once

#include <cstddef>

#include "simd.h"

namespace lm {

// One projection of one adapter: a (rank, in) row-major, b as (units of rank, out) units: two neighbouring
// ranks of an output in one unit for bf16, an odd last one beside a zero.
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

}  // namespace lm
