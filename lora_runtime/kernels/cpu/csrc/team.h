// The threads of one step: loops that share their work, each ended by a barrier.
//
// A step has some ten barriers a layer, a few microseconds apart. OpenMP's go to sleep early when a process has
// more OpenMP threads than cores, as one with torch in it has; these spin, and give way only after a while.
#pragma once

#include <sched.h>

#include <algorithm>
#include <atomic>

#include "simd.h"

namespace lm {

class Team {
  public:
    int threads = 0;  // set once, before any thread goes on

    // fn(i) for i in 0..n-1, a contiguous share for each thread.
    template <class F>
    void share(int thread, int n, F fn) {
        int first = int(int64_t(n) * thread / threads), last = int(int64_t(n) * (thread + 1) / threads);
        for (int i = first; i < last; i++) fn(i);
        barrier();
    }

    // fn(i) for i in 0..n-1, `chunk` at a time to whichever thread is free.
    template <class F>
    void deal(int n, int chunk, F fn) {
        for (;;) {
            int first = next_.fetch_add(chunk, std::memory_order_relaxed);
            if (first >= n) break;
            for (int i = first; i < std::min(n, first + chunk); i++) fn(i);
        }
        barrier();
    }

  private:
    void barrier() {
        int phase = phase_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);  // nobody deals before the phase is over
            phase_.store(phase + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; spins++) {
            if (spins < kSpins)
                pause();
            else
                sched_yield();
        }
    }
    static void pause() {
#if defined(__x86_64__)
        _mm_pause();
#endif
    }

    static constexpr int kSpins = 20000;  // about a quarter of a millisecond
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> phase_{0};
    alignas(64) std::atomic<int> next_{0};
};

}  // namespace lm
