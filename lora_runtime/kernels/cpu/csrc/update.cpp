#include "update.h"

#include <algorithm>

namespace lm {
namespace {

// fn(entry, weight) for every segment of the piece, in order.
template <class F>
inline void each(const Segment* segments, const Piece& piece, int module, F fn) {
    for (int s : piece.segments) fn(segments[s].table[module], segments[s].weight);
}

void add_scaled(float* y, float weight, const float* x, int n) {
    for (int i = 0; i < n; i++) y[i] += weight * x[i];
}

float keep(float factor, float value) { return factor == 0 ? 0.0f : factor * value; }  // not NaN of what is replaced

// factor[i] = 1 + sum w (g_i - 1) - sum of the weights that replace the base's, for `count` outputs from `first` on.
// Whether one is not 1.
bool factors(const Segment* segments, const Piece& piece, int module, int first, int count, float* factor) {
    bool changed = false;
    std::fill(factor, factor + count, 1.0f);
    each(segments, piece, module, [&](const ModuleEntry& e, float weight) {
        changed |= e.dense || e.gain;
        if (e.dense)
            for (int i = 0; i < count; i++) factor[i] -= weight;
        else if (e.gain)
            add_scaled(factor, weight, e.gain + first, count);
    });
    return changed;
}

template <class T>
float dot(const float* row, const T* x, int n) {
    f32x16 total{};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) total += load<f32x16>(row + i) * load16(x + i);
    float rest = 0;
    for (; i < n; i++) rest += row[i] * to_float(x[i]);
    return sum(total) + rest;
}

template <class T>
void add_tokens(const ModuleEntry& e, float weight, const T* x, int in, float* y) {
    for (int i = 0; i < e.tokens; i++) y[e.token_ids[i]] += weight * dot(e.token_rows + size_t(i) * in, x, in);
}

}  // namespace

bool rescales(const Segment* segments, const Piece& piece, int module) {
    bool found = false;
    if (module >= 0)
        each(segments, piece, module, [&](const ModuleEntry& e, float) { found |= e.dense || e.gain; });
    return found;
}

template <class T>
void rescale_panel(const Segment* segments, const Piece& piece, const Linear& w, int outputs, int panel, const T* x,
                   size_t ldx, float* y, size_t ldy, float* scratch) {
    int first = panel * kPanel, count = std::min(kPanel, outputs - first), rows = piece.end - piece.start;
    int own = std::clamp(w.n - first, 0, count);  // outputs that the base has
    float factor[kPanel];
    if (!factors(segments, piece, w.module, first, own, factor)) return;
    x += piece.start * ldx, y += piece.start * ldy + first;
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < count; i++) {
            float& value = y[r * ldy + i];
            float bias = i < own && w.bias ? w.bias[first + i] : 0.0f;
            value = i < own ? bias + keep(factor[i], value - bias) : 0.0f;
        }
    each(segments, piece, w.module, [&](const ModuleEntry& e, float weight) {
        int width = std::min(count, e.out - first);
        if (!e.dense || width <= 0) return;
        const T* weight_panel = static_cast<const T*>(e.dense) + size_t(first) * w.k;
        Linear dense{weight_panel, nullptr, nullptr, e.out - first, w.k, -1, 0};
        gemm_panel(dense, 0, x, ldx, rows, scratch, kPanel, false);
        for (int r = 0; r < rows; r++) add_scaled(y + r * ldy, weight, scratch + r * kPanel, width);
    });
}

template <class T>
void add_updates(const Segment* segments, const Piece& piece, const Linear& w, const T* x, size_t ldx, float* y,
                 size_t ldy, float* scratch) {
    if (w.module < 0) return;
    int rows = piece.end - piece.start;
    x += piece.start * ldx, y += piece.start * ldy;
    each(segments, piece, w.module, [&](const ModuleEntry& e, float weight) {
        if (e.rank) lora_rows<T>(e, weight, x, ldx, w.k, rows, y, ldy, scratch);
        if (e.bias)
            for (int r = 0; r < rows; r++) add_scaled(y + r * ldy, weight, e.bias, e.out);
        if (e.tokens)
            for (int r = 0; r < rows; r++) add_tokens(e, weight, x + r * ldx, w.k, y + r * ldy);
    });
}

Norm updated_norm(const Segment* segments, const Piece& piece, const Norm& n, int width, float* scratch) {
    Norm out = n;
    auto add = [&](const float*& values, float* own, float weight, const void* change) {
        if (!change) return;
        if (values != own) std::copy(values, values + width, own);
        values = own;
        add_scaled(own, weight, static_cast<const float*>(change), width);
    };
    each(segments, piece, n.module, [&](const ModuleEntry& e, float weight) {
        add(out.weight, scratch, weight, e.dense);
        add(out.bias, scratch + width, weight, e.bias);
    });
    return out;
}

size_t embedding_scratch(int width) { return 3 * size_t(width); }

template <class T>
void update_embedding(const Segment* segments, const Piece& piece, int module, int token, float* y, int width,
                      float* scratch) {
    float *factor = scratch, *sum = factor + width, *row = sum + width, *lora = row + width;
    bool changed = factors(segments, piece, module, 0, width, factor);
    std::fill(sum, sum + width, 0.0f);
    each(segments, piece, module, [&](const ModuleEntry& e, float weight) {
        if (token >= e.out) return;
        if (e.dense) {
            unpack_row<T>(Linear{e.dense, nullptr, nullptr, e.out, width, -1, 0}, token, row);
            add_scaled(sum, weight, row, width);
        }
        if (e.rank) lora_token(e, weight, static_cast<const T*>(e.a) + size_t(token) * e.rank, sum, width, lora);
        const int32_t* id = std::lower_bound(e.token_ids, e.token_ids + e.tokens, token);
        if (e.tokens && id != e.token_ids + e.tokens && *id == token)
            add_scaled(sum, weight, e.token_rows + (id - e.token_ids) * size_t(width), width);
    });
    for (int i = 0; i < width; i++) y[i] = (changed ? keep(factor[i], y[i]) : y[i]) + sum[i];
}

int outputs_of(const Segment* segments, const Piece& piece, int module, int n) {
    each(segments, piece, module, [&](const ModuleEntry& e, float) { n = std::max(n, int(e.out)); });
    return n;
}

#define INSTANTIATE(T)                                                                                               \
    template void rescale_panel<T>(const Segment*, const Piece&, const Linear&, int, int, const T*, size_t, float*,  \
                                   size_t, float*);                                                                  \
    template void add_updates<T>(const Segment*, const Piece&, const Linear&, const T*, size_t, float*, size_t,      \
                                 float*);                                                                            \
    template void update_embedding<T>(const Segment*, const Piece&, int, int, float*, int, float*);
INSTANTIATE(float)
INSTANTIATE(bf16)

}  // namespace lm
