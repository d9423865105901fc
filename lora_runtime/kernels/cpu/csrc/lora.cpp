#include "lora.h"

#include <algorithm>
#include <iterator>
#include <type_traits>

namespace lm {
namespace {

constexpr int kTile = 4;    // rows that share one pass over an adapter's weights
constexpr int kChunk = 12;  // vectors of outputs
constexpr int kGroups[] = {8, 4, 2, 1};
constexpr size_t kAhead = 4096;  // bytes on in the stream

template <class T>
constexpr int step_of = kLanes * per_unit<T>;  // values of a vector

template <class T>
inline int steps(int in) {
    return (in + step_of<T> - 1) / step_of<T>;
}
template <class T>
inline int units(int rank) {
    return (rank + per_unit<T> - 1) / per_unit<T>;
}

template <int R>
inline void fetch_ahead(const uint32_t* p) {
    if (R == 1) __builtin_prefetch(reinterpret_cast<const char*>(p) + kAhead);
}

template <class T>
inline u32x16 load_row(const T* x, int k, int in) {
    if (k + step_of<T> <= in) return load<u32x16>(x + k);
    u32x16 v{};
    std::memcpy(&v, x + k, (in - k) * sizeof(T));
    return v;
}

// t[row][d] = a[d] . x[row] for R rows of x and a group of G ranks, D of them at a time.
template <class T, int R, int G, int D>
void dots(const T* x, size_t ldx, const uint32_t* a, int in, float* t, int ldt) {
    for (int first = 0; first < G; first += D) {
        f32x16 acc[R][D] = {};
        for (int s = 0; s < steps<T>(in); s++) {
            u32x16 xv[R];
            for (int r = 0; r < R; r++) xv[r] = load_row(x + r * ldx, s * step_of<T>, in);
            for (int d = 0; d < D; d++) {
                const uint32_t* p = a + (size_t(s) * G + first + d) * kLanes;
                u32x16 av = load<u32x16>(p);
                fetch_ahead<R>(p);
                for (int r = 0; r < R; r++) acc[r][d] = mac<T>(acc[r][d], av, xv[r]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int d = 0; d < D; d++) t[r * ldt + first + d] = sum(acc[r][d]);
    }
}

template <class T, int R>
void shrink(const T* x, size_t ldx, const uint32_t* a, int in, int rank, float* t, int ldt) {
    constexpr int D = R == 1 ? 8 : 4;  // accumulators for R rows
    size_t per_rank = size_t(steps<T>(in)) * kLanes;
    int done = 0;
    auto group = [&](auto size) {
        constexpr int G = decltype(size)::value;
        for (; rank - done >= G; done += G)
            dots<T, R, G, std::min(G, D)>(x, ldx, a + done * per_rank, in, t + done, ldt);
    };
    group(std::integral_constant<int, 8>());
    group(std::integral_constant<int, 4>());
    group(std::integral_constant<int, 2>());
    group(std::integral_constant<int, 1>());
}

// Scaled and rounded to units in place: unit j of a row overwrites what was read of it.
template <class T>
void to_units(float* t, int rank, float scaling) {
    constexpr int U = per_unit<T>;
    for (int j = 0; j < units<T>(rank); j++) {
        T pair[U];
        for (int i = 0; i < U; i++) pair[i] = from_float<T>(j * U + i < rank ? t[j * U + i] * scaling : 0.0f);
        std::memcpy(t + j, pair, sizeof pair);
    }
}

// y[row][o] += sum over units j of t[row][j] . b[j][o], for R rows and V vectors of a chunk of W vectors.
template <class T, int R, int V, int W>
void expand_vectors(const float* t, int ldt, int count, const uint32_t* b, float* y, size_t ldy) {
    f32x16 acc[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) acc[r][v] = load<f32x16>(y + r * ldy + v * kLanes);
    for (int j = 0; j < count; j++)
        for (int v = 0; v < V; v++) {
            const uint32_t* p = b + (size_t(j) * W + v) * kLanes;
            u32x16 bv = load<u32x16>(p);
            fetch_ahead<R>(p);
            for (int r = 0; r < R; r++) acc[r][v] = mac<T>(acc[r][v], bv, load<uint32_t>(t + r * ldt + j));
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(y + r * ldy + v * kLanes, acc[r][v]);
}

// The last outputs, fewer than a vector.
template <class T, int R>
void expand_rest(const float* t, int ldt, int count, const uint32_t* b, float* y, size_t ldy, int outputs) {
    f32x16 padded[R] = {};
    for (int r = 0; r < R; r++) std::memcpy(&padded[r], y + r * ldy, outputs * sizeof(float));
    expand_vectors<T, R, 1, 1>(t, ldt, count, b, reinterpret_cast<float*>(padded), kLanes);
    for (int r = 0; r < R; r++) std::memcpy(y + r * ldy, &padded[r], outputs * sizeof(float));
}

template <class T, int R>
void expand(const float* t, int ldt, int rank, const uint32_t* b, int out, float* y, size_t ldy) {
    constexpr int V = R == 1 ? kChunk : 4;
    int count = units<T>(rank), o = 0;
    for (; o + kChunk * kLanes <= out; o += kChunk * kLanes, b += size_t(count) * kChunk * kLanes)
        for (int v = 0; v < kChunk; v += V)
            expand_vectors<T, R, V, kChunk>(t, ldt, count, b + v * kLanes, y + o + v * kLanes, ldy);
    for (; o + kLanes <= out; o += kLanes, b += size_t(count) * kLanes)
        expand_vectors<T, R, 1, 1>(t, ldt, count, b, y + o, ldy);
    if (o < out) expand_rest<T, R>(t, ldt, count, b, y + o, ldy, out - o);
}

template <class T, int R>
void update(const ModuleEntry& e, float scaling, const T* x, size_t ldx, int in, float* y, size_t ldy, float* t) {
    int ldt = e.rank + 1;
    shrink<T, R>(x, ldx, static_cast<const uint32_t*>(e.a), in, e.rank, t, ldt);
    for (int r = 0; r < R; r++) to_units<T>(t + r * ldt, e.rank, scaling);
    expand<T, R>(t, ldt, e.rank, static_cast<const uint32_t*>(e.b), e.out, y, ldy);
}

}  // namespace

template <class T>
void lora_rows(const ModuleEntry& e, float weight, const T* x, size_t ldx, int in, int m, float* y, size_t ldy,
               float* scratch) {
    float scaling = e.scaling * weight;
    int row = 0;
    for (; row + kTile <= m; row += kTile)
        update<T, kTile>(e, scaling, x + row * ldx, ldx, in, y + row * ldy, ldy, scratch);
    for (; row < m; row++) update<T, 1>(e, scaling, x + row * ldx, ldx, in, y + row * ldy, ldy, scratch);
}

template <class T>
void lora_token(const ModuleEntry& e, float weight, const T* a, float* y, int width, float* scratch) {
    for (int j = 0; j < e.rank; j++) scratch[j] = to_float(a[j]);
    to_units<T>(scratch, e.rank, e.scaling * weight);
    expand<T, 1>(scratch, e.rank + 1, e.rank, static_cast<const uint32_t*>(e.b), width, y, width);
}

template <class T>
void pack_lora_a(const T* a, int rank, int in, T* packed) {
    for (int first = 0; first < rank;) {
        int size = *std::find_if(std::begin(kGroups), std::end(kGroups), [&](int g) { return rank - first >= g; });
        for (int k = 0; k < steps<T>(in) * step_of<T>; k += step_of<T>)
            for (int d = 0; d < size; d++)
                for (int i = k; i < k + step_of<T>; i++) *packed++ = i < in ? a[size_t(first + d) * in + i] : T{};
        first += size;
    }
}

template <class T>
void pack_lora_b(const T* b, int rank, int out, T* packed) {
    constexpr int U = per_unit<T>;
    for (int o = 0; o < out;) {
        int width = o + kChunk * kLanes <= out ? kChunk * kLanes : kLanes;
        for (int j = 0; j < units<T>(rank); j++)
            for (int i = o; i < o + width; i++)
                for (int r = j * U; r < j * U + U; r++)
                    *packed++ = i < out && r < rank ? b[size_t(i) * rank + r] : T{};
        o += width;
    }
}

#define INSTANTIATE(T)                                                                                         \
    template void lora_rows<T>(const ModuleEntry&, float, const T*, size_t, int, int, float*, size_t, float*); \
    template void lora_token<T>(const ModuleEntry&, float, const T*, float*, int, float*);                     \
    template void pack_lora_a<T>(const T*, int, int, T*);                                                      \
    template void pack_lora_b<T>(const T*, int, int, T*);
INSTANTIATE(float)
INSTANTIATE(bf16)

}  // namespace lm
