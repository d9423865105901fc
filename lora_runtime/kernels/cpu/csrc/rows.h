// What happens to one row between the matrix products.
#pragma once

#include <cstddef>

#include "simd.h"

namespace lm {

struct Norm {
    const float *weight, *bias;  // null: ones, zeros
    float eps;
    int32_t rms;     // 1: x / rms(x) (arXiv:1910.07467), 0: layer norm (arXiv:1607.06450)
    int32_t module = -1;  // row of the adapters' tables, -1: none
    int32_t unused;
};

enum Activation : int32_t { kSilu = 0, kGeluTanh = 1 };

// out = norm(x), or out += norm(x).
template <class T>
void norm_row(const Norm& n, const float* x, int width, T* out, bool add);

// out = act(gate) * up, or act(gate) where up is null.
template <class T>
void activate_row(Activation act, const float* gate, const float* up, int width, T* out);

// Rotary embedding in halves (arXiv:2104.09864) of one head, then rounding to T.
// cosines and sines: (rotary / 2) of this position; values behind `rotary` pass through.
template <class T>
void rotate_head(const float* x, int dim, int rotary, const float* cosines, const float* sines, T* out);

// The largest of n values; NaN if there is any.
float largest(const float* x, int n);

// The index of the largest of n values, the first of equals; -1 if there is a NaN or the largest is not finite. softcap as in attention.
int32_t argmax_row(float* x, int n, float softcap);

}  // namespace lm
