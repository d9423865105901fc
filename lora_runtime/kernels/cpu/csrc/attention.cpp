#include "attention.h"

#include <algorithm>
#include <utility>

namespace lm {
namespace {

constexpr int kKeys = 64;
constexpr float kLowest = -1e30f;  // finite, so that a block without visible keys changes nothing

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

// 16 rows of `units` 32-bit units, transposed: out[u * 16 + row].
void transpose16(const uint32_t* const (&rows)[kLanes], int units, uint32_t* out) {
    int u = 0;
#if defined(__AVX512F__)
    for (; u + kLanes <= units; u += kLanes) {
        __m512i r[16], t[16];
        for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(rows[i] + u);
        for (int i = 0; i < 16; i += 2) {
            t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
            t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
        }
        for (int i = 0; i < 16; i += 4) {
            r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
            r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
            r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
            r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
        }
        for (int i = 0; i < 4; i++) {  // 128-bit lane l of r[i + 4 g] holds column 4 l + i of rows 4 g .. 4 g + 3
            t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
            t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
            t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
            t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
        }
        for (int i = 0; i < 4; i++) {
            uint32_t* o = out + size_t(u + i) * kLanes;
            _mm512_storeu_si512(o, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
            _mm512_storeu_si512(o + 8 * kLanes, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
            _mm512_storeu_si512(o + 4 * kLanes, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
            _mm512_storeu_si512(o + 12 * kLanes, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
        }
    }
#endif
    for (; u < units; u++)
        for (int i = 0; i < kLanes; i++) out[size_t(u) * kLanes + i] = rows[i][u];
}

// A row of values per unit of keys: float32 as it is, bf16 with two keys interleaved. `width` is dim_v rounded up.
void pack_values(const float* const* rows, int dim, int width, uint32_t* out) {
    for (int j = 0; j < kKeys; j++) std::memcpy(out + size_t(j) * width, rows[j], dim * sizeof(float));
}

void pack_values(const bf16* const* rows, int dim, int width, uint32_t* out) {
    for (int j = 0; j < kKeys; j += 2) {
        const bf16 *even = rows[j], *odd = rows[j + 1];
        uint32_t* o = out + size_t(j / 2) * width;
        for (int i = 0; i < dim; i++) o[i] = even[i].bits | uint32_t(odd[i].bits) << 16;
    }
}

// The thread's working memory for R = count * group rows of queries.
template <class T>
struct Scratch {
    int units, width, rows;
    uint32_t *q, *k, *v, *p;
    float *acc, *scores, *best, *total;

    Scratch(const AttentionShape& s, float* base) {
        units = s.dim / per_unit<T>;
        width = round_up(s.dim_v, kLanes);
        rows = kQueries * (s.heads / s.kv_heads);
        auto* u = reinterpret_cast<uint32_t*>(base);
        auto take = [&u](size_t n) { return std::exchange(u, u + (n + 15) / 16 * 16); };
        k = take(size_t(units) * kKeys);
        v = take(size_t(width) * kKeys);
        q = take(size_t(units) * rows);
        p = take(size_t(kKeys) * rows);
        acc = reinterpret_cast<float*>(take(size_t(width) * rows));
        scores = reinterpret_cast<float*>(take(size_t(kKeys) * rows));
        best = reinterpret_cast<float*>(take(rows));
        total = reinterpret_cast<float*>(take(rows));
        used = size_t(u - reinterpret_cast<uint32_t*>(base));
    }
    size_t used;
};

template <class T>
void score_row(const AttentionShape& s, const Scratch<T>& w, int row, int position, int block) {
    const uint32_t* q = w.q + size_t(row) * w.units;
    f32x16 acc[kKeys / kLanes] = {};
    for (int u = 0; u < w.units; u++)
        for (int g = 0; g < kKeys / kLanes; g++)
            acc[g] = mac<T>(acc[g], load<u32x16>(w.k + (size_t(g) * w.units + u) * kLanes), q[u]);
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int g = 0; g < kKeys / kLanes; g++) {
        f32x16 v = acc[g] * s.scaling;
        if (s.softcap) v = s.softcap * tanh16(v / s.softcap);
        i32x16 key = block + g * kLanes + lane;
        i32x16 hidden = key > position;
        if (s.window) hidden |= key <= position - s.window;
        store(w.scores + row * kKeys + g * kLanes, hidden ? splat(-INFINITY) : v);
    }
}

// Scores of one block to probabilities (unnormalised), and the factor for what was summed before.
template <class T>
float soften(const Scratch<T>& w, int row) {
    float* scores = w.scores + row * kKeys;
    T* p = reinterpret_cast<T*>(w.p + row * kKeys);
    f32x16 top = load<f32x16>(scores);
    for (int g = 1; g < kKeys / kLanes; g++) top = max(top, load<f32x16>(scores + g * kLanes));
    float before = w.best[row], best = std::max(before, max_of(top));
    f32x16 sums{};
    for (int g = 0; g < kKeys / kLanes; g++) {
        f32x16 e = exp16(load<f32x16>(scores + g * kLanes) - best);
        sums += e;
        store16(p + g * kLanes, e);
    }
    float factor = exp16(splat(before - best))[0];
    w.best[row] = best;
    w.total[row] = w.total[row] * factor + sum(sums);
    return factor;
}

template <class T, int V>
inline void weigh(const Scratch<T>& w, int row, int column, float factor) {
    const uint32_t* p = w.p + row * kKeys;
    float* out = w.acc + size_t(row) * w.width + column;
    f32x16 acc[V];
    for (int v = 0; v < V; v++) acc[v] = load<f32x16>(out + v * kLanes) * factor;
    for (int j = 0; j < kKeys / per_unit<T>; j++)
        for (int v = 0; v < V; v++)
            acc[v] = mac<T>(acc[v], load<u32x16>(w.v + size_t(j) * w.width + column + v * kLanes), p[j]);
    for (int v = 0; v < V; v++) store(out + v * kLanes, acc[v]);
}

template <class T>
void gather_block(const AttentionShape& s, const Context& c, int kv_head, int block, const T* keys, const T* values,
                  const Scratch<T>& w) {
    const uint32_t* k[kLanes];
    const T* v[kKeys];
    for (int j = 0; j < kKeys; j++) {
        int pos = std::min(block + j, c.length - 1);  // behind the end: masked, but never another sequence's memory
        size_t slot = size_t(c.block_table[pos / c.block_size]) * c.block_size + pos % c.block_size;
        size_t head = slot * s.kv_heads + kv_head;
        v[j] = values + head * s.dim_v;
        k[j % kLanes] = reinterpret_cast<const uint32_t*>(keys + head * s.dim);
        if (j % kLanes == kLanes - 1) transpose16(k, w.units, w.k + size_t(j / kLanes) * w.units * kLanes);
    }
    pack_values(v, s.dim_v, w.width, w.v);
}

}  // namespace

size_t attention_scratch(const AttentionShape& s) { return Scratch<float>(s, nullptr).used; }

template <class T>
void attend(const AttentionShape& s, const Context& c, int kv_head, int first, int count, const T* q, size_t ldq,
            const T* keys, const T* values, T* out, size_t ldo, float* scratch) {
    int group = s.heads / s.kv_heads, rows = count * group;
    Scratch<T> w(s, scratch);
    for (int row = 0; row < rows; row++) {
        const T* from = q + (row / group) * ldq + size_t(kv_head * group + row % group) * s.dim;
        std::memcpy(w.q + size_t(row) * w.units, from, s.dim * sizeof(T));
        w.best[row] = kLowest;
        w.total[row] = 0;
    }
    std::fill(w.acc, w.acc + size_t(rows) * w.width, 0.0f);
    int oldest = s.window ? std::max(0, first - s.window + 1) : 0;
    for (int block = oldest / kKeys * kKeys; block < first + count; block += kKeys) {
        gather_block(s, c, kv_head, block, keys, values, w);
        for (int row = 0; row < rows; row++) {
            int position = first + row / group;
            if (block > position || (s.window && block + kKeys <= position - s.window + 1)) continue;
            score_row(s, w, row, position, block);
            float factor = soften(w, row);
            int column = 0;
            for (; column + 4 * kLanes <= w.width; column += 4 * kLanes) weigh<T, 4>(w, row, column, factor);
            for (; column < w.width; column += kLanes) weigh<T, 1>(w, row, column, factor);
        }
    }
    for (int row = 0; row < rows; row++) {
        T* to = out + (row / group) * ldo + size_t(kv_head * group + row % group) * s.dim_v;
        for (int i = 0; i < s.dim_v; i++) to[i] = from_float<T>(w.acc[size_t(row) * w.width + i] / w.total[row]);
    }
}

#define INSTANTIATE(T)                                                                                          \
    template void attend<T>(const AttentionShape&, const Context&, int, int, int, const T*, size_t, const T*,   \
                            const T*, T*, size_t, float*);
INSTANTIATE(float)
INSTANTIATE(bf16)

}  // namespace lm
