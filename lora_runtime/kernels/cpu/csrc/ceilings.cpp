// What the machine can do at most, for benchmarks to hold the kernels against.
#include <omp.h>

#include "simd.h"

using namespace lm;

namespace {

// Multiply-accumulates from registers alone, on as many chains as the instruction's latency asks for.
template <class T>
double multiply(long rounds, int threads) {
    constexpr int kChains = 12;
    double checksum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : checksum)
    {
        f32x16 acc[kChains];
        for (int c = 0; c < kChains; c++) acc[c] = splat(float(c));  // else they are one chain to the compiler
        u32x16 w = u32x16{} + uint32_t(omp_get_thread_num() + 1), a = w;
        for (long i = 0; i < rounds; i++)
            for (auto& chain : acc) chain = mac<T>(chain, w, a);
        for (auto& chain : acc) checksum += double(chain[0]);
    }
    return checksum;
}

}  // namespace

extern "C" {

// Seconds for `rounds` rounds of 12 multiply-accumulates of 16 float32 or 32 bf16 on each thread.
double lm_peak_seconds(int use_bf16, long rounds, int threads) {
    double start = omp_get_wtime();
    volatile double keep = use_bf16 ? multiply<bf16>(rounds, threads) : multiply<float>(rounds, threads);
    (void)keep;
    return omp_get_wtime() - start;
}

// Seconds for one pass of reads over `bytes` bytes (a multiple of 256), each thread over a part of its own.
double lm_read_seconds(const char* memory, long bytes, int threads) {
    double start = omp_get_wtime();
    uint32_t checksum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : checksum)
    {
        u32x16 sum[4] = {};
#pragma omp for schedule(static)
        for (long i = 0; i < bytes; i += 256)
            for (int v = 0; v < 4; v++) sum[v] += load<u32x16>(memory + i + v * 64);
        for (auto& s : sum) checksum += s[0] + s[7];
    }
    volatile uint32_t keep = checksum;
    (void)keep;
    return omp_get_wtime() - start;
}
}
