// One step's packed batch, as Python hands it over, and how its work is cut for the threads.
#pragma once

#include <vector>

#include "attention.h"
#include "lora.h"

namespace lm {

// Rows of a sequence are neighbours; nothing is padded. All pointers are borrowed for the run.
struct Step {
    int32_t rows, sequences, segments, sampled;
    const int32_t *tokens, *positions, *slots;       // (rows): slot is where the row's key and value go
    const int32_t *query_start, *context_lengths;    // (sequences + 1), (sequences)
    const int32_t* block_tables;                     // (sequences, table_width)
    int32_t table_width, block_size;
    const Segment* segment;                          // (segments)
    const int32_t* sampled_rows;                     // (sampled)
    void *const *keys, *const *values;               // per layer, (slots, kv_heads, dim)
    float* logits;                                   // (sampled, vocabulary)
    int32_t* greedy;                                 // (sampled): argmax, -1 for NaN
    int32_t threads, unused;
};

// Queries first..first+count-1 of a sequence; `row` is the first one's row.
struct QueryTile {
    int32_t row, first, count;
    Context context;
};

// Rows that lie in the same segments, few enough to spread over the threads.
struct Piece {
    int32_t start, end;
    std::vector<int32_t> segments;  // in order: sums of a row must not depend on timing
};

constexpr int kPieceRows = 16;  // at most

// Which rows take which adapters.
struct Cover {
    std::vector<Piece> pieces;
    std::vector<int32_t> piece_of;  // (rows): index of a row's piece, -1 without one
};

std::vector<QueryTile> query_tiles(const Step& s);

// Of all rows, or where `sampled` of the rows that sample, numbered among themselves.
Cover cover(const Step& s, bool sampled);

}  // namespace lm
