#include "gemm.h"

#include <algorithm>

namespace lm {
namespace {

constexpr int kVectors = kPanel / kLanes;
#if defined(__AVX512F__)
constexpr int kRows = 8;
#else
constexpr int kRows = 2;  // 16 registers of half the width
#endif

// Where the micro-kernel takes its weight vectors from.
struct Packed {
    const uint32_t* p;
    u32x16 get(size_t unit, int v) const { return load<u32x16>(p + unit * kPanel + v * kLanes); }
    void prefetch(size_t unit) const {
        for (int v = 0; v < kVectors; v++) __builtin_prefetch(p + (unit + 24) * kPanel + v * kLanes);
    }
};

struct Int8 {
    const int8_t* p;
    u32x16 get(size_t unit, int v) const {
        typedef int8_t i8x32 __attribute__((vector_size(32)));
        typedef int16_t i16x32 __attribute__((vector_size(64)));
        return (u32x16)__builtin_convertvector(load<i8x32>(p + (unit * kPanel + v * kLanes) * 2), i16x32);
    }
    void prefetch(size_t unit) const {
        for (int v = 0; v < kVectors; v += 2) __builtin_prefetch(p + (unit + 48) * kPanel * 2 + v * kLanes * 2);
    }
};

template <class T, int R, class Source>
inline void tile(const Source& w, const T* x, size_t ldx, int units, acc_t<T> (&acc)[R][kVectors]) {
    for (auto& row : acc)
        for (auto& v : row) v = acc_t<T>{};
    for (int u = 0; u < units; u++) {
        if (R <= 2) w.prefetch(u);
        u32x16 wv[kVectors];
        for (int v = 0; v < kVectors; v++) wv[v] = w.get(u, v);
        for (int r = 0; r < R; r++) {
            uint32_t a = load<uint32_t>(x + r * ldx + size_t(u) * per_unit<T>);
            for (int v = 0; v < kVectors; v++) acc[r][v] = mac<T>(acc[r][v], wv[v], a);
        }
    }
}

struct Out {
    float* y;
    size_t ldy;
    const float *scale, *bias;  // of this panel's first output
    const float* row_scale;
    int width;  // outputs that exist
    bool add;
};

inline f32x16 as_floats(f32x16 v) { return v; }
inline f32x16 as_floats(i32x16 v) { return __builtin_convertvector(v, f32x16); }

inline void finish(const Out& o, int row, int v, f32x16 acc) {
    int first = v * kLanes, count = std::min(o.width - first, kLanes);
    if (count <= 0) return;
    float* y = o.y + row * o.ldy + first;
    f32x16 before{};
    if (count == kLanes) {
        if (o.scale) acc *= load<f32x16>(o.scale + first) * o.row_scale[row];
        if (o.bias) acc += load<f32x16>(o.bias + first);
        if (o.add) before = load<f32x16>(y);
        return store(y, before + acc);
    }
    for (int i = 0; i < count; i++) {
        float value = acc[i];
        if (o.scale) value *= o.scale[first + i] * o.row_scale[row];
        if (o.bias) value += o.bias[first + i];
        y[i] = o.add ? y[i] + value : value;
    }
}

template <class T, int R, class Source>
void rows(const Source& w, const T* x, size_t ldx, int units, const Out& o) {
    acc_t<T> acc[R][kVectors];
    tile<T, R>(w, x, ldx, units, acc);
    for (int r = 0; r < R; r++)
        for (int v = 0; v < kVectors; v++) finish(o, r, v, as_floats(acc[r][v]));
}

template <class T, int R, class Source>
void last_rows(const Source& w, const T* x, size_t ldx, int units, int m, const Out& o) {
    if constexpr (R > 0) {
        if (m == R) return rows<T, R>(w, x, ldx, units, o);
        last_rows<T, R - 1>(w, x, ldx, units, m, o);
    }
}

template <class T, class Source>
void all_rows(const Source& w, const T* x, size_t ldx, int units, int m, Out o) {
    for (; m >= kRows; m -= kRows, x += kRows * ldx) {
        rows<T, kRows>(w, x, ldx, units, o);
        o.y += kRows * o.ldy;
        if (o.row_scale) o.row_scale += kRows;
    }
    last_rows<T, kRows - 1>(w, x, ldx, units, m, o);
}

Out out_of(const Linear& w, int panel, const float* row_scale, float* y, size_t ldy, bool add) {
    int first = panel * kPanel;
    return {y + first, ldy, w.scale ? w.scale + first : nullptr, w.bias ? w.bias + first : nullptr, row_scale,
            w.n - first, add};
}

}  // namespace

template <class T>
void gemm_panel(const Linear& w, int panel, const T* x, size_t ldx, int m, float* y, size_t ldy, bool add) {
    int units = w.k / per_unit<T>;
    Packed source{static_cast<const uint32_t*>(w.weight) + size_t(panel) * units * kPanel};
    all_rows(source, x, ldx, units, m, out_of(w, panel, nullptr, y, ldy, add));
}

void gemm_panel_int8(const Linear& w, int panel, const FixedRows& x, int m, float* y, size_t ldy, bool add,
                     uint32_t* scratch) {
    int units = w.k / 2;
    Int8 source{static_cast<const int8_t*>(w.weight) + size_t(panel) * w.k * kPanel};
    Out out = out_of(w, panel, x.scale, y, ldy, add);
    if (m <= kRows) return all_rows(source, x.values, w.k, units, m, out);
    for (int u = 0; u < units; u++)  // widened once for all row tiles
        for (int v = 0; v < kVectors; v++) store(scratch + size_t(u) * kPanel + v * kLanes, source.get(u, v));
    all_rows(Packed{scratch}, x.values, w.k, units, m, out);
}

template <class T>
float quantize_row(const T* x, int k, int16_t* out) {
    float largest = 0;
    bool nan = false;
    for (int i = 0; i < k; i++) {
        float v = std::fabs(to_float(x[i]));
        nan |= v != v;
        largest = v > largest ? v : largest;
    }
    if (nan || largest == INFINITY) {
        std::fill(out, out + k, int16_t(1));
        return NAN;  // a broken row stays visibly broken
    }
    float limit = std::min(32767.0f, std::floor(2147483647.0f / (127.0f * k)));
    float inverse = largest > 0 ? limit / largest : 0.0f;
    for (int i = 0; i < k; i++) out[i] = int16_t(std::nearbyint(to_float(x[i]) * inverse));
    return largest / limit;
}

template <class T, int U>
static void pack_units(const T* w, int n, int k, T* out, int threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int panel = 0; panel < panels(n); panel++) {
        T* o = out + size_t(panel) * kPanel * k;
        for (int u = 0; u < k / U; u++)
            for (int lane = 0; lane < kPanel; lane++)
                for (int i = 0; i < U; i++, o++) {
                    size_t row = size_t(panel) * kPanel + lane;
                    *o = row < size_t(n) ? w[row * k + u * U + i] : T{};
                }
    }
}

template <class T>
void pack(const T* w, int n, int k, T* out, int threads) {
    pack_units<T, per_unit<T>>(w, n, k, out, threads);
}

void pack_int8(const int8_t* w, int n, int k, int8_t* out, int threads) { pack_units<int8_t, 2>(w, n, k, out, threads); }

template <class P>
static float stored(P value) {
    if constexpr (sizeof(P) == 1)
        return value;
    else
        return to_float(value);
}

template <class P, int U>
static void unpack_units(const Linear& w, int n, float* out) {
    const P* p = static_cast<const P*>(w.weight) + size_t(n / kPanel) * kPanel * w.k + size_t(n % kPanel) * U;
    float scale = w.scale ? w.scale[n] : 1.0f;
    for (int i = 0; i < w.k; i++) out[i] = scale * stored(p[size_t(i / U) * kPanel * U + i % U]);
}

template <class T>
void unpack_row(const Linear& w, int n, float* out) {
    if (w.scale)
        unpack_units<int8_t, 2>(w, n, out);
    else
        unpack_units<T, per_unit<T>>(w, n, out);
}

#define INSTANTIATE(T)                                                                            \
    template void gemm_panel<T>(const Linear&, int, const T*, size_t, int, float*, size_t, bool); \
    template float quantize_row<T>(const T*, int, int16_t*);                                      \
    template void pack<T>(const T*, int, int, T*, int);                                           \
    template void unpack_row<T>(const Linear&, int, float*);
INSTANTIATE(float)
INSTANTIATE(bf16)

}  // namespace lm
