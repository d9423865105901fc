#include "sample.h"

#include <algorithm>
#include <vector>

#include "rows.h"

namespace lm {
namespace {

constexpr int kBlock = 256;
// Weights are in (0, 1]: the upper bits of a float in that range, 32 bins for each power of two.
constexpr int kShift = 18, kBins = (0x3f800000 >> kShift) + 1;

inline int bin_of(float w) {
    uint32_t bits;
    std::memcpy(&bits, &w, 4);
    return int(bits >> kShift);
}

// w[i] = exp((logits[i] - top) / temperature), so that the largest is 1.
void weigh(const float* logits, int n, float top, float temperature, float* w) {
    float inverse = std::min(1.0f / temperature, 1e30f);  // finite, or 0 * infinity would be the best token's
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) store(w + i, exp16((load<f32x16>(logits + i) - top) * inverse));
    for (; i < n; i++) w[i] = exp16(splat((logits[i] - top) * inverse))[0];
}

double total(const float* w, int n, float least) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += w[i] >= least ? w[i] : 0.0f;
    return sum;
}

// The weights at or above `least` by bin, so that only one bin has to be sorted.
struct Histogram {
    std::vector<int> counts = std::vector<int>(kBins);
    std::vector<double> masses = std::vector<double>(kBins);

    Histogram(const float* w, int n, float least) {
        for (int i = 0; i < n; i++)
            if (w[i] >= least) counts[bin_of(w[i])]++, masses[bin_of(w[i])] += w[i];
    }
};

std::vector<float> sorted_bin(const float* w, int n, int bin) {
    std::vector<float> found;
    for (int i = 0; i < n; i++)
        if (bin_of(w[i]) == bin) found.push_back(w[i]);
    std::sort(found.rbegin(), found.rend());
    return found;
}

// The k-th largest weight.
float top_k_least(const float* w, int n, int k) {
    Histogram h(w, n, 0.0f);
    int bin = kBins - 1, above = 0;
    while (bin > 0 && above + h.counts[bin] < k) above += h.counts[bin--];
    auto values = sorted_bin(w, n, bin);
    return values[std::min(k - above, int(values.size())) - 1];
}

// The weight of the last token before which the mass is still below top_p.
float top_p_least(const float* w, int n, float top_p, float least) {
    Histogram h(w, n, least);
    double mass = 0, wanted = 0;
    for (double m : h.masses) wanted += m;
    wanted *= top_p;
    int bin = kBins - 1;
    for (; bin > 0 && mass + h.masses[bin] < wanted; bin--) mass += h.masses[bin];
    float last = 1.0f;
    for (float value : sorted_bin(w, n, bin)) {
        if (mass >= wanted || value < least) break;
        last = value;
        mass += value;
    }
    return last;
}

// The first token up to which the mass is above u times all of it.
int draw(const float* w, int n, float least, float u) {
    double target = u * total(w, n, least), mass = 0;
    int chosen = 0;
    for (int start = 0; start < n; start += kBlock) {
        int size = std::min(kBlock, n - start);
        double here = total(w + start, size, least);
        if (mass + here <= target) {
            mass += here;
            continue;
        }
        for (int i = start; i < start + size; i++) {
            if (w[i] < least) continue;
            chosen = i;
            mass += w[i];
            if (mass > target) return i;
        }
    }
    return chosen;
}

}  // namespace

void sample_row(SampleRow& row, int n, float* w) {
    float top = largest(row.logits, n);
    row.token = -1;
    if (!std::isfinite(top)) return;
    weigh(row.logits, n, top, row.temperature, w);
    float least = std::max(row.min_p, 1e-37f);  // a token that cannot be is never drawn
    float kept = row.top_k > 0 && row.top_k < n ? top_k_least(w, n, row.top_k) : 0.0f;
    if (row.top_p < 1.0f) kept = std::max(kept, top_p_least(w, n, row.top_p, kept));
    row.token = draw(w, n, std::max(least, kept), row.u);
}

}  // namespace lm
