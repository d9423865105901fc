// Drawing one token from a row of logits.
#pragma once

#include <cstdint>

namespace lm {

// Greedy rows do not come here: temperature > 0. The filters work in this order; top_k 0, top_p 1 and min_p 0
// are off, and tokens as likely as the last one kept are kept too. `u` in [0, 1) is the draw.
struct SampleRow {
    const float* logits;
    float temperature, top_p, min_p, u;
    int32_t top_k;
    int32_t token;  // the result; -1 if there is NaN, or the largest logit is not finite
};

// `scratch` holds `vocab` floats.
void sample_row(SampleRow& row, int vocab, float* scratch);

}  // namespace lm
