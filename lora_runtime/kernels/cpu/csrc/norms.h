// Row norms of an updated weight, what DoRA (arXiv:2402.09353) divides by.
#pragma once

#include "gemm.h"

namespace lm {

// norms[n] = ||w[n] + scaling * sum_r b[n][r] a[r]|| over the inputs, in float32, on the calling thread alone.
// a: (k, rank), transposed; b: (n, rank).
template <class T>
void updated_norms(const Linear& w, const float* a, const float* b, int rank, float scaling, float* norms);

}  // namespace lm
