#include "lora.h"

namespace lm {
namespace {

constexpr int kTile = 4;  // rows that share one pass over an adapter's weights

template <class T>
constexpr int step_of = kLanes * per_unit<T>;

// n values (at most one vector of units) from p, filled up with zeros.
template <class T>
inline u32x16 load_some(const T* p, int n) {
    u32x16 v{};
    std::memcpy(&v, p, n * sizeof(T));
    return v;
}

// t[row][d] = a[d] . x[row] for R rows of x and D rows of a.
template <class T, int R, int D>
void dots(const T* x, size_t ldx, const T* a, int n, float* t, int ldt) {
    f32x16 acc[R][D] = {};
    int k = 0;
    for (; k + step_of<T> <= n; k += step_of<T>) {
        u32x16 xv[R];
        for (int r = 0; r < R; r++) xv[r] = load<u32x16>(x + r * ldx + k);
        for (int d = 0; d < D; d++) {
            u32x16 av = load<u32x16>(a + size_t(d) * n + k);
            if (R == 1) __builtin_prefetch(a + size_t(d + D) * n + k);  // the next ranks: decode reads from memory
            for (int r = 0; r < R; r++) acc[r][d] = mac<T>(acc[r][d], av, xv[r]);
        }
    }
    if (k < n) {
        for (int d = 0; d < D; d++) {
            u32x16 av = load_some(a + size_t(d) * n + k, n - k);
            for (int r = 0; r < R; r++) acc[r][d] = mac<T>(acc[r][d], av, load_some(x + r * ldx + k, n - k));
        }
    }
    for (int r = 0; r < R; r++)
        for (int d = 0; d < D; d++) t[r * ldt + d] = sum(acc[r][d]);
}

template <class T, int R>
void shrink(const T* x, size_t ldx, const T* a, int in, int rank, float* t, int ldt) {
    constexpr int D = R == 1 ? 8 : 4;
    int d = 0;
    for (; d + D <= rank; d += D) dots<T, R, D>(x, ldx, a + size_t(d) * in, in, t + d, ldt);
    for (; d < rank; d++) dots<T, R, 1>(x, ldx, a + size_t(d) * in, in, t + d, ldt);
}

// Scaled and rounded to units in place: unit j of a row overwrites what was read of it.
template <class T>
void to_units(float* t, int rank, float scaling) {
    constexpr int U = per_unit<T>;
    for (int j = 0; j * U < rank; j++) {
        T pair[U];
        for (int i = 0; i < U; i++) pair[i] = from_float<T>(j * U + i < rank ? t[j * U + i] * scaling : 0.0f);
        std::memcpy(t + j, pair, sizeof pair);
    }
}

// y[row][o] += sum over units j of t[row][j] . b[j][o], for R rows and V vectors of outputs.
template <class T, int R, int V>
void expand_chunk(const float* t, int ldt, int units, const uint32_t* b, size_t ldb, float* y, size_t ldy) {
    f32x16 acc[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) acc[r][v] = load<f32x16>(y + r * ldy + v * kLanes);
    for (int j = 0; j < units; j++)
        for (int v = 0; v < V; v++) {
            u32x16 bv = load<u32x16>(b + j * ldb + v * kLanes);
            for (int r = 0; r < R; r++) acc[r][v] = mac<T>(acc[r][v], bv, load<uint32_t>(t + r * ldt + j));
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(y + r * ldy + v * kLanes, acc[r][v]);
}

// The last outputs, fewer than a vector.
template <class T, int R>
void expand_rest(const float* t, int ldt, int units, const uint32_t* b, size_t ldb, float* y, size_t ldy, int count) {
    for (int r = 0; r < R; r++) {
        f32x16 acc{};
        std::memcpy(&acc, y + r * ldy, count * sizeof(float));
        for (int j = 0; j < units; j++)
            acc = mac<T>(acc, load_some(b + j * ldb, count), load<uint32_t>(t + r * ldt + j));
        std::memcpy(y + r * ldy, &acc, count * sizeof(float));
    }
}

template <class T, int R>
void expand(const float* t, int ldt, int rank, const uint32_t* b, int out, float* y, size_t ldy) {
    constexpr int V = R == 1 ? 12 : 4;
    int units = (rank + per_unit<T> - 1) / per_unit<T>, o = 0;
    for (; o + V * kLanes <= out; o += V * kLanes) expand_chunk<T, R, V>(t, ldt, units, b + o, out, y + o, ldy);
    for (; o + kLanes <= out; o += kLanes) expand_chunk<T, R, 1>(t, ldt, units, b + o, out, y + o, ldy);
    if (o < out) expand_rest<T, R>(t, ldt, units, b + o, out, y + o, ldy, out - o);
}

template <class T, int R>
void update(const LoraEntry& e, float scaling, const T* x, size_t ldx, int in, float* y, size_t ldy, int out, float* t) {
    int ldt = e.rank + 1;
    shrink<T, R>(x, ldx, static_cast<const T*>(e.a), in, e.rank, t, ldt);
    for (int r = 0; r < R; r++) to_units<T>(t + r * ldt, e.rank, scaling);
    expand<T, R>(t, ldt, e.rank, static_cast<const uint32_t*>(e.b), out, y, ldy);
}

}  // namespace

template <class T>
void lora_rows(const LoraEntry& e, float weight, const T* x, size_t ldx, int in, int m, float* y, size_t ldy,
               int out, float* scratch) {
    float scaling = e.scaling * weight;
    int row = 0;
    for (; row + kTile <= m; row += kTile)
        update<T, kTile>(e, scaling, x + row * ldx, ldx, in, y + row * ldy, ldy, out, scratch);
    for (; row < m; row++) update<T, 1>(e, scaling, x + row * ldx, ldx, in, y + row * ldy, ldy, out, scratch);
}

template void lora_rows<float>(const LoraEntry&, float, const float*, size_t, int, int, float*, size_t, int, float*);
template void lora_rows<bf16>(const LoraEntry&, float, const bf16*, size_t, int, int, float*, size_t, int, float*);

}  // namespace lm
