// The threads of one step: loops that share their work, each ended by a barrier.
//
// A step has some ten barriers a layer, a few microseconds apart. OpenMP's go to sleep early when a process has
// more OpenMP threads than cores, as one with torch in it has; these spin, and sleep after a while: then a thread
// that is waited for has lost its core to someone else. sched_yield would not do: on recent kernels who yields often
// falls far behind whoever runs beside it. Threads that found themselves on one core do not spin at all: each would
// keep the other from what it waits for, at every barrier, and nothing but sleep lets the kernel part them.
#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

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
        note_core();
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
            arrived_.store(0, std::memory_order_relaxed);
            next_.store(0, std::memory_order_relaxed);  // nobody deals before the phase is over
            cores_.store(0, std::memory_order_relaxed);
            crowded_.store(met_.exchange(false, std::memory_order_relaxed), std::memory_order_relaxed);
            phase_.store(phase + 1);  // in one order with sleeping_, so that nobody sleeps through it
            if (sleeping_.load() > 0) futex(FUTEX_WAKE_PRIVATE, threads);
            return;
        }
        int limit = crowded_.load(std::memory_order_relaxed) ? 0 : kSpins;
        for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; spins++) {
            if (spins < limit) {
                pause();
                continue;
            }
            sleeping_.fetch_add(1);
            futex(FUTEX_WAIT_PRIVATE, phase);  // returns at once if the phase is over
            sleeping_.fetch_sub(1);
        }
    }
    // Remembers for the next phase whether two threads came from one core. Cores from 64 on are not told apart.
    void note_core() {
        int core = sched_getcpu();
        if (core < 0 || core >= 64) return;
        uint64_t bit = uint64_t(1) << core;
        if (cores_.fetch_or(bit, std::memory_order_relaxed) & bit) met_.store(true, std::memory_order_relaxed);
    }
    void futex(int operation, int value) {
        static_assert(sizeof(std::atomic<int>) == sizeof(int));
        syscall(SYS_futex, &phase_, operation, value, nullptr, nullptr, 0);
    }
    static void pause() {
#if defined(__x86_64__)
        _mm_pause();
#endif
    }

    static constexpr int kSpins = 4000;  // about 50 microseconds
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> phase_{0};
    alignas(64) std::atomic<int> next_{0};
    alignas(64) std::atomic<int> sleeping_{0};
    std::atomic<uint64_t> cores_{0};
    std::atomic<bool> met_{false}, crowded_{false};
};

}  // namespace lm
