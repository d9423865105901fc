// y = x W^T for a frozen W that was packed once: panels of 48 outputs, each a stream of units along K.
//
// Every output is one chain of additions along K in a fixed order, whatever the number of rows, so a
// row's result does not depend on its batch.
#pragma once

#include <cstddef>

#include "simd.h"

namespace lm {

constexpr int kPanel = 48;  // 3 vectors x 8 rows of accumulators fill the 32 registers of AVX-512

struct Linear {
    const void* weight;   // [panels][K units][48] units; int8: [panels][K/2][48][2]
    const float* scale;   // int8: one factor per output, else null
    const float* bias;    // per output, or null
    int32_t n, k;         // outputs, inputs (k even for bf16 and int8)
    int32_t module;       // row of the adapters' tables, -1 without LoRA
    int32_t column;       // first column in the output buffer
};

inline int panels(int n) { return (n + kPanel - 1) / kPanel; }

// Rows of an int8 linear's input as fixed point: x = scale * value (see quantize_row).
struct FixedRows {
    const int16_t* values;  // (rows, k)
    const float* scale;     // (rows)
};

// One panel for rows 0..m-1 of x (row stride ldx values) into y (row stride ldy floats); adds if `add`.
template <class T>
void gemm_panel(const Linear& w, int panel, const T* x, size_t ldx, int m, float* y, size_t ldy, bool add);

// The same for int8 weights. `scratch` holds gemm_scratch(w) units of the calling thread.
void gemm_panel_int8(const Linear& w, int panel, const FixedRows& x, int m, float* y, size_t ldy, bool add,
                     uint32_t* scratch);

inline size_t gemm_scratch(const Linear& w) { return w.scale ? size_t(w.k / 2) * kPanel : 0; }

// One row as int16, as finely as k products with int8 can be summed in int32 without overflow: 13 bits and
// a sign at k = 2048, more than bf16 has. Returns the row's scale.
template <class T>
float quantize_row(const T* x, int k, int16_t* out);

// w (n, k) row-major into panels; out has panels(n) * 48 * k values, the last panel filled up with zeros.
template <class T>
void pack(const T* w, int n, int k, T* out, int threads);
void pack_int8(const int8_t* w, int n, int k, int8_t* out, int threads);

// Row n of a packed matrix, as floats: what makes a tied embedding one copy.
template <class T>
void unpack_row(const Linear& w, int n, float* out);

}  // namespace lm
