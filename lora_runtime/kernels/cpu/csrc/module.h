// What one adapter changes in one module of the base, as the kernels read it.
#pragma once

#include <cstdint>

namespace lm {

// All zero: nothing. With weights w_i of a row's adapters a module computes base + sum w_i (adapter_i - base).
struct ModuleEntry {
    const void *a, *b;         // LoRA, packed by pack_lora; of an embedding a is (tokens, rank) row-major
    int32_t rank;              // 0: no LoRA
    float scaling;
    int32_t out;               // outputs, of an embedding tokens: more than the base's where some were added
    int32_t tokens;
    const float* gain;         // DoRA (arXiv:2402.09353): g - 1 per output, of an embedding per column; or null
    const float* bias;         // added per output, or null
    const void* dense;         // a saved weight in panels that replaces the base's, or null; of a norm floats to add
    const int32_t* token_ids;  // (tokens), ascending
    const float* token_rows;   // (tokens, width): added to these rows of the weight
};

// What an adapter has beside LoRA, biases and tokens of projections; 0 leaves a step on its fastest way.
enum Kinds : int32_t { kRescales = 1, kNorms = 2, kEmbedding = 4, kHead = 8 };

// Rows start..end-1 take `weight` times the adapter's update. Segments may overlap.
struct Segment {
    const ModuleEntry* table;  // one entry per module
    int32_t start, end;
    float weight;
    int32_t kinds;
};

}  // namespace lm
