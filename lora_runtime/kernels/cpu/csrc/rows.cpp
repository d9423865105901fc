#include "rows.h"

namespace lm {
namespace {

// fn(vector at i) for whole vectors and one zero-filled rest.
template <class F>
inline void each(const float* x, int n, F fn) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) fn(load<f32x16>(x + i));
    if (i < n) {
        f32x16 v{};
        std::memcpy(&v, x + i, (n - i) * sizeof(float));
        fn(v);
    }
}

}  // namespace

template <class T>
void norm_row(const Norm& n, const float* x, int width, T* out, bool add) {
    float mean = 0;
    if (!n.rms) {
        f32x16 total{};
        each(x, width, [&](f32x16 v) { total += v; });
        mean = sum(total) / width;
    }
    f32x16 squares{}, more{};
    int i = 0;
    for (; i + 2 * kLanes <= width; i += 2 * kLanes) {  // two chains: a sum waits for the one before
        f32x16 v = load<f32x16>(x + i) - mean, u = load<f32x16>(x + i + kLanes) - mean;
        squares += v * v;
        more += u * u;
    }
    squares += more;
    for (; i + kLanes <= width; i += kLanes) {
        f32x16 v = load<f32x16>(x + i) - mean;
        squares += v * v;
    }
    float rest = 0;
    for (; i < width; i++) rest += (x[i] - mean) * (x[i] - mean);
    float inverse = 1.0f / std::sqrt((sum(squares) + rest) / width + n.eps);
    for (i = 0; i + kLanes <= width; i += kLanes) {
        f32x16 v = (load<f32x16>(x + i) - mean) * inverse;
        if (n.weight) v *= load<f32x16>(n.weight + i);
        if (n.bias) v += load<f32x16>(n.bias + i);
        store16(out + i, add ? load16(out + i) + v : v);
    }
    for (; i < width; i++) {
        float v = (x[i] - mean) * inverse * (n.weight ? n.weight[i] : 1) + (n.bias ? n.bias[i] : 0);
        out[i] = from_float<T>(add ? to_float(out[i]) + v : v);
    }
}

static inline f32x16 activate(Activation act, f32x16 x) {
    if (act == kSilu) return x / (1.0f + exp16(-x));
    f32x16 inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanh16(inner));
}

template <class T>
void activate_row(Activation act, const float* gate, const float* up, int width, T* out) {
    int i = 0;
    for (; i + kLanes <= width; i += kLanes) {
        f32x16 v = activate(act, load<f32x16>(gate + i));
        store16(out + i, up ? v * load<f32x16>(up + i) : v);
    }
    if (i < width) {
        f32x16 g{}, u = splat(1.0f);
        std::memcpy(&g, gate + i, (width - i) * sizeof(float));
        if (up) std::memcpy(&u, up + i, (width - i) * sizeof(float));
        T rounded[kLanes];
        store16(rounded, activate(act, g) * u);
        std::memcpy(out + i, rounded, (width - i) * sizeof(T));
    }
}

template <class T>
void rotate_head(const float* x, int dim, int rotary, const float* cosines, const float* sines, T* out) {
    int half = rotary / 2, i = 0;
    for (; i + kLanes <= half; i += kLanes) {
        f32x16 a = load<f32x16>(x + i), b = load<f32x16>(x + i + half);
        f32x16 c = load<f32x16>(cosines + i), s = load<f32x16>(sines + i);
        store16(out + i, a * c - b * s);
        store16(out + i + half, b * c + a * s);
    }
    for (; i < half; i++) {
        float a = x[i], b = x[i + half];
        out[i] = from_float<T>(a * cosines[i] - b * sines[i]);
        out[i + half] = from_float<T>(b * cosines[i] + a * sines[i]);
    }
    for (i = rotary; i < dim; i++) out[i] = from_float<T>(x[i]);
}

float largest(const float* x, int n) {
    f32x16 best = splat(-INFINITY);
    i32x16 bad{};
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        f32x16 v = load<f32x16>(x + i);
        bad |= v != v;
        best = max(best, v);
    }
    float top = max_of(best);
    bool nan = sum(__builtin_convertvector(bad, f32x16)) != 0;
    for (; i < n; i++) {
        nan |= x[i] != x[i];
        top = x[i] > top ? x[i] : top;
    }
    return nan ? NAN : top;
}

int32_t argmax_row(float* x, int n, float softcap) {
    int i = 0;
    if (softcap) {
        for (; i + kLanes <= n; i += kLanes) store(x + i, softcap * tanh16(load<f32x16>(x + i) / softcap));
        for (; i < n; i++) x[i] = softcap * std::tanh(x[i] / softcap);
    }
    float top = largest(x, n);
    if (!std::isfinite(top)) return -1;
    for (i = 0; i + kLanes <= n; i += kLanes) {
        i32x16 hit = load<f32x16>(x + i) == top;
        if (sum(__builtin_convertvector(hit, f32x16)) != 0) break;
    }
    while (i < n - 1 && x[i] != top) i++;
    return i;
}

#define INSTANTIATE(T)                                                                  \
    template void norm_row<T>(const Norm&, const float*, int, T*, bool);                \
    template void activate_row<T>(Activation, const float*, const float*, int, T*);     \
    template void rotate_head<T>(const float*, int, int, const float*, const float*, T*);
INSTANTIATE(float)
INSTANTIATE(bf16)

}  // namespace lm
