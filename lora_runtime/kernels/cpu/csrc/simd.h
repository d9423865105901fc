// Vectors of 16 lanes in GCC's portable notation: the compiler maps them to AVX-512, AVX2 or less.
// Only products of bf16 and int16, the rounding to bf16, sums and maxima of a vector name an instruction.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lm {

struct bf16 {
    uint16_t bits;
};

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef uint16_t u16x32 __attribute__((vector_size(64)));

constexpr int kLanes = 16;

template <class V>
inline V load(const void* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <class V>
inline void store(void* p, V v) {
    std::memcpy(p, &v, sizeof v);
}

inline f32x16 splat(float x) { return x - f32x16{}; }

inline float as_float(uint32_t u) {
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}

inline float sum(f32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) v[i] += v[i + width];
    return v[0];
#endif
}

inline float max_of(f32x16 v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float m = v[0];
    for (int i = 1; i < kLanes; i++) m = v[i] > m ? v[i] : m;
    return m;
#endif
}

inline f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return as_float(uint32_t(x.bits) << 16); }

template <class T>
inline T from_float(float x);
template <>
inline float from_float<float>(float x) {
    return x;
}
template <>
inline bf16 from_float<bf16>(float x) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return {uint16_t((u >> 16) | 64)};  // NaN stays NaN
    return {uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}

// 16 values to and from float32, rounding to the nearest even.
inline f32x16 load16(const float* p) { return load<f32x16>(p); }
inline f32x16 load16(const bf16* p) {
    return (f32x16)(__builtin_convertvector(load<u16x16>(p), u32x16) << 16);
}
inline void store16(float* p, f32x16 v) { store(p, v); }
inline void store16(bf16* p, f32x16 v) {
#if defined(__AVX512BF16__)
    store(p, _mm512_cvtneps_pbh((__m512)v));
#else
    u32x16 u = (u32x16)v;
    u32x16 rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    u32x16 quiet = (u >> 16) | 64;
    store(p, __builtin_convertvector((u & 0x7fffffff) > 0x7f800000 ? quiet : rounded, u16x16));
#endif
}

// Multiplication works on units of 32 bits: one float32, or two neighbouring bf16 or int16.
template <class T>
constexpr int per_unit = 4 / int(sizeof(T));

template <class T>
struct Accumulator {
    typedef f32x16 type;
};
template <>
struct Accumulator<int16_t> {
    typedef i32x16 type;
};
template <class T>
using acc_t = typename Accumulator<T>::type;

// acc[i] += the products of unit w[i] with unit a[i], in float32, or in int32 for int16.
template <class T>
inline acc_t<T> mac(acc_t<T> acc, u32x16 w, u32x16 a);
template <>
inline f32x16 mac<float>(f32x16 acc, u32x16 w, u32x16 a) {
    return acc + (f32x16)w * (f32x16)a;
}
template <>
inline f32x16 mac<bf16>(f32x16 acc, u32x16 w, u32x16 a) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)a);
#else
    acc += (f32x16)(w << 16) * (f32x16)(a << 16);
    return acc + (f32x16)(w & 0xffff0000u) * (f32x16)(a & 0xffff0000u);
#endif
}
template <>
inline i32x16 mac<int16_t>(i32x16 acc, u32x16 w, u32x16 a) {
#if defined(__AVX512VNNI__)
    return (i32x16)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)w, (__m512i)a);
#elif defined(__AVX512BW__)
    return acc + (i32x16)_mm512_madd_epi16((__m512i)w, (__m512i)a);
#else
    acc += ((i32x16)(w << 16) >> 16) * ((i32x16)(a << 16) >> 16);
    return acc + ((i32x16)w >> 16) * ((i32x16)a >> 16);
#endif
}
template <class T>
inline acc_t<T> mac(acc_t<T> acc, u32x16 w, uint32_t a) {
    return mac<T>(acc, w, a - u32x16{});
}

// exp, relative error below 2e-7; 0 below -87, finite above 88 (polynomial of Cephes' expf).
inline f32x16 exp16(f32x16 x) {
    f32x16 t = x > 88.0f ? splat(88.0f) : x;
    t = t < -87.0f ? splat(-87.0f) : t;
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    f32x16 shifted = t * 1.44269504f + magic;
    f32x16 n = shifted - magic;
    f32x16 r = t - n * 0.693359375f + n * 2.12194440e-4f;
    f32x16 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    i32x16 exponent = ((i32x16)shifted - (int32_t)0x4b400000 + 127) << 23;
    f32x16 result = p * (f32x16)exponent;
    return x < -87.0f ? f32x16{} : result;
}

inline f32x16 tanh16(f32x16 x) { return 1.0f - 2.0f / (1.0f + exp16(2.0f * x)); }

}  // namespace lm
