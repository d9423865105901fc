// Causal grouped-query attention over a paged KV cache (PagedAttention, arXiv:2309.06180), read in place.
//
// The cache is laid out for it: 16 consecutive slots of one KV head are a tile. A key tile is (units of dim,
// 16 slots), so that one vector holds a unit of 16 keys; a value tile is (units of slots, dim_v).
//
// Softmax runs online over blocks of 64 keys whose borders are absolute positions (arXiv:2205.14135), so
// a query's arithmetic is the same in a prefill chunk of any size and in decode.
#pragma once

#include <cstddef>

#include "simd.h"

namespace lm {

struct AttentionShape {
    int32_t heads, kv_heads, dim, dim_v;  // dim even for bf16
    int32_t window;                       // last positions that count, itself included; 0: all
    float scaling, softcap;               // softcap 0: none
};

// The keys of one sequence: slot of position p is block_table[p / block_size] * block_size + p % block_size.
// block_size is a multiple of 16.
struct Context {
    const int32_t* block_table;
    int32_t block_size;
    int32_t length;
};

constexpr int kQueries = 8;  // queries of one sequence that share a pass over its keys

// Floats of scratch per thread.
size_t attention_scratch(const AttentionShape& s);

// One key (dim) or value (dim_v) into its slot.
template <class T>
void write_key(const AttentionShape& s, int kv_head, size_t slot, const T* key, T* keys);
template <class T>
void write_value(const AttentionShape& s, int kv_head, size_t slot, const float* value, T* values);

// Queries at positions first..first+count-1 (count <= kQueries) of one sequence, for one KV head.
// q: (count, heads, dim), row stride ldq; out: (count, heads, dim_v). Vectors of values may be read up to
// 64 bytes behind the last tile.
template <class T>
void attend(const AttentionShape& s, const Context& c, int kv_head, int first, int count, const T* q, size_t ldq,
            const T* keys, const T* values, T* out, size_t ldo, float* scratch);

}  // namespace lm
