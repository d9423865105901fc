// Segmented LoRA (arXiv:2106.09685): y[rows] += s * B (A x[rows]), every adapter at its true rank.
#pragma once

#include <cstddef>

#include "module.h"
#include "simd.h"

namespace lm {

// Floats of scratch that lora_rows needs for a rank.
inline size_t lora_scratch(int rank) { return 4 * size_t(rank + 1); }

// Adds the low-rank update of one linear map, e.out outputs, to `m` rows. A row's arithmetic does not depend on its
// neighbours.
template <class T>
void lora_rows(const ModuleEntry& e, float weight, const T* x, size_t ldx, int in, int m, float* y, size_t ldy,
               float* scratch);

// y (width) += weight * scaling * B a of one token of an embedding, a = A's column (rank).
template <class T>
void lora_token(const ModuleEntry& e, float weight, const T* a, float* y, int width, float* scratch);

// From a (rank, in) and b (out, rank), row-major. A: groups of 8, 4, 2 or 1 ranks, in each a vector of every rank
// in turn. B: chunks of 12 or 1 vectors of outputs, in each the units of rank in turn, where a unit holds two
// neighbouring ranks for bf16. What is missing to a vector or a unit is zero. Each is one stream in the order of use,
// so that the processor's own prefetching keeps up: in decode each adapter comes from memory once a step. Sizes: see
// lora_bytes in ../adapter.py.
template <class T>
void pack_lora_a(const T* a, int rank, int in, T* packed);
template <class T>
void pack_lora_b(const T* b, int rank, int out, T* packed);

}  // namespace lm
