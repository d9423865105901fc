#include "norms.h"

#include <algorithm>
#include <vector>

namespace lm {
namespace {

constexpr int kVectors = kPanel / kLanes;

// The values of one unit of 16 rows: one vector for each input in it.
inline void split(const float* p, f32x16 (&out)[1]) { out[0] = load<f32x16>(p); }
inline void split(const bf16* p, f32x16 (&out)[2]) {
    u32x16 unit = load<u32x16>(p);
    out[0] = (f32x16)(unit << 16), out[1] = (f32x16)(unit & 0xffff0000u);
}
inline void split(const int8_t* p, f32x16 (&out)[2]) {
    typedef int8_t i8x32 __attribute__((vector_size(32)));
    typedef int16_t i16x32 __attribute__((vector_size(64)));
    i32x16 unit = (i32x16)__builtin_convertvector(load<i8x32>(p), i16x32);
    out[0] = __builtin_convertvector((unit << 16) >> 16, f32x16);
    out[1] = __builtin_convertvector(unit >> 16, f32x16);
}

// Squared norms of a panel's rows; b: (rank, 48), scaled.
template <class P, int U>
void panel_squares(const P* p, int k, const float* scale, const float* a, const float* b, int rank, float* squares) {
    f32x16 total[kVectors] = {};
    for (int i = 0; i < k; i += U, p += kPanel * U)
        for (int v = 0; v < kVectors; v++) {
            f32x16 w[U];
            split(p + v * kLanes * U, w);
            for (int u = 0; u < U; u++)
                if (scale) w[u] *= load<f32x16>(scale + v * kLanes);
            for (int r = 0; r < rank; r++)
                for (int u = 0; u < U; u++)
                    w[u] += load<f32x16>(b + r * kPanel + v * kLanes) * a[size_t(i + u) * rank + r];
            for (int u = 0; u < U; u++) total[v] += w[u] * w[u];
        }
    for (int v = 0; v < kVectors; v++) store(squares + v * kLanes, total[v]);
}

}  // namespace

template <class T>
void updated_norms(const Linear& w, const float* a, const float* b, int rank, float scaling, float* norms) {
    std::vector<float> own(size_t(rank) * kPanel);
    for (int first = 0; first < w.n; first += kPanel) {
        int count = std::min(kPanel, w.n - first);
        float squares[kPanel], scale[kPanel] = {};
        for (int r = 0; r < rank; r++)
            for (int i = 0; i < kPanel; i++)
                own[r * kPanel + i] = i < count ? scaling * b[size_t(first + i) * rank + r] : 0.0f;
        if (w.scale) std::copy(w.scale + first, w.scale + first + count, scale);
        size_t at = size_t(first) * w.k;
        if (w.scale)
            panel_squares<int8_t, 2>(static_cast<const int8_t*>(w.weight) + at, w.k, scale, a, own.data(), rank, squares);
        else
            panel_squares<T, per_unit<T>>(static_cast<const T*>(w.weight) + at, w.k, nullptr, a, own.data(), rank, squares);
        for (int i = 0; i < count; i++) norms[first + i] = std::sqrt(squares[i]);
    }
}

template void updated_norms<float>(const Linear&, const float*, const float*, int, float, float*);
template void updated_norms<bf16>(const Linear&, const float*, const float*, int, float, float*);

}  // namespace lm
