#include "attention.h"

#include <algorithm>
#include <utility>

namespace lm {
namespace {

constexpr int kTiles = 4;  // per block of the softmax
constexpr int kKeys = kTiles * kLanes;
constexpr int kRows = 4;          // rows of queries that share the loads of a tile
constexpr int kColumns = 4;       // vectors of dim_v at a time
constexpr float kLowest = -1e30f;  // finite, so that a block without visible keys changes nothing

inline int round_up(int n, int to) { return (n + to - 1) / to * to; }

template <class T>
inline size_t key_tile(const AttentionShape& s) {
    return size_t(s.dim / per_unit<T>) * kLanes;  // units
}
template <class T>
inline size_t value_tile(const AttentionShape& s) {
    return size_t(s.dim_v) * (kLanes / per_unit<T>);  // units
}

// The thread's working memory for R = count * group rows of queries.
template <class T>
struct Scratch {
    int units, width;
    uint32_t *q, *p;
    float *acc, *scores, *best, *total, *factor;
    size_t used;

    Scratch(const AttentionShape& s, float* base) {
        units = s.dim / per_unit<T>;
        width = round_up(s.dim_v, kLanes);
        int rows = kQueries * (s.heads / s.kv_heads);
        auto* u = reinterpret_cast<uint32_t*>(base);
        auto take = [&u](size_t n) { return std::exchange(u, u + (n + 15) / 16 * 16); };
        q = take(size_t(units) * rows);
        p = take(size_t(kKeys) * rows);
        acc = reinterpret_cast<float*>(take(size_t(width) * rows));
        scores = reinterpret_cast<float*>(take(size_t(kKeys) * rows));
        best = reinterpret_cast<float*>(take(rows));
        total = reinterpret_cast<float*>(take(rows));
        factor = reinterpret_cast<float*>(take(rows));
        used = size_t(u - reinterpret_cast<uint32_t*>(base));
    }
};

// Up to 64 keys of one sequence and KV head: where their tiles lie.
struct Block {
    int first;  // position of the first key
    int tiles;
    const uint32_t *k[kTiles], *v[kTiles];
    int valid;  // keys that belong to the sequence
};

// Keys of a block, in units of them, that R rows of queries see: all of them those in [whole, whole_end), one or
// another those in [start, end).
struct Sight {
    int start, whole, whole_end, end;
};

// The rows' first query is at position `first`, their last one at `last`.
template <class T>
Sight sight(const AttentionShape& s, const Block& b, int first, int last) {
    constexpr int U = per_unit<T>;
    auto inside = [&](int key) { return std::clamp(key - b.first, 0, b.valid); };
    int from = s.window ? inside(first - s.window + 1) : 0, to = inside(last + 1);
    int all_from = s.window ? inside(last - s.window + 1) : 0, all_to = inside(first + 1);
    Sight v{from / U, round_up(all_from, U) / U, all_to / U, round_up(to, U) / U};
    if (v.whole >= v.whole_end) v.whole = v.whole_end = v.start;
    return v;
}

// The bits of unit j of a block's values that a query at `position` sees.
template <class T>
inline uint32_t seen_bits(const AttentionShape& s, const Block& b, int j, int position) {
    constexpr int U = per_unit<T>;
    uint32_t bits = 0;
    for (int u = 0; u < U; u++) {
        int key = b.first + j * U + u;
        bool seen = key <= position && !(s.window && key <= position - s.window);
        bits |= seen ? (U == 1 ? ~0u : 0xffffu << (16 * u)) : 0u;
    }
    return bits;
}

template <class T>
Block find_block(const AttentionShape& s, const Context& c, int kv_head, int first, const T* keys, const T* values) {
    Block b{first, 0, {}, {}, std::min(kKeys, c.length - first)};
    for (; b.tiles * kLanes < b.valid; b.tiles++) {
        int pos = first + b.tiles * kLanes;
        size_t slot = size_t(c.block_table[pos / c.block_size]) * c.block_size + pos % c.block_size;
        size_t tile = slot / kLanes * s.kv_heads + kv_head;
        b.k[b.tiles] = reinterpret_cast<const uint32_t*>(keys) + tile * key_tile<T>(s);
        b.v[b.tiles] = reinterpret_cast<const uint32_t*>(values) + tile * value_tile<T>(s);
    }
    return b;
}

template <class T, int R, int G>
void dot_tiles(const Scratch<T>& w, const Block& b, const Block* next, int row, f32x16 (&acc)[R][kTiles]) {
    const uint32_t* q = w.q + size_t(row) * w.units;
    for (int u = 0; u < w.units; u++)
        for (int g = 0; g < G; g++) {
            u32x16 k = load<u32x16>(b.k[g] + size_t(u) * kLanes);
            if (next) __builtin_prefetch(next->k[g] + size_t(u) * kLanes);
            for (int r = 0; r < R; r++) acc[r][g] = mac<T>(acc[r][g], k, q[size_t(r) * w.units + u]);
        }
}

// Scores of R rows with all keys of a block, -inf where a row may not look. Meanwhile the keys of `next`, the
// block that this thread comes to after it, are on their way from memory.
template <class T, int R>
void score(const AttentionShape& s, const Scratch<T>& w, const Block& b, const Block* next, int row, int group,
           int first) {
    f32x16 acc[R][kTiles] = {};
    switch (b.tiles) {
        case 1: dot_tiles<T, R, 1>(w, b, next, row, acc); break;
        case 2: dot_tiles<T, R, 2>(w, b, next, row, acc); break;
        case 3: dot_tiles<T, R, 3>(w, b, next, row, acc); break;
        default: dot_tiles<T, R, 4>(w, b, next, row, acc);
    }
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (int r = 0; r < R; r++) {
        int position = first + (row + r) / group;
        for (int g = 0; g < kTiles; g++) {
            f32x16 v = acc[r][g] * s.scaling;
            if (s.softcap) v = s.softcap * tanh16(v / s.softcap);
            i32x16 key = b.first + g * kLanes + lane;
            i32x16 hidden = key > position;
            if (s.window) hidden |= key <= position - s.window;
            store(w.scores + (row + r) * kKeys + g * kLanes, hidden ? splat(-INFINITY) : v);
        }
    }
}

// Scores of one block to probabilities (unnormalised), and the factor for what was summed before.
template <class T>
void soften(const Scratch<T>& w, int row) {
    float* scores = w.scores + row * kKeys;
    T* p = reinterpret_cast<T*>(w.p + row * kKeys);
    f32x16 top = load<f32x16>(scores);
    for (int g = 1; g < kTiles; g++) top = max(top, load<f32x16>(scores + g * kLanes));
    float before = w.best[row], best = std::max(before, max_of(top));
    f32x16 sums{};
    for (int g = 0; g < kTiles; g++) {
        f32x16 e = exp16(load<f32x16>(scores + g * kLanes) - best);
        sums += e;
        store16(p + g * kLanes, e);
    }
    w.factor[row] = before == best ? 1.0f : exp16(splat(before - best))[0];
    w.best[row] = best;
    w.total[row] = w.total[row] * w.factor[row] + sum(sums);
}

// acc = acc * factor + probabilities . values, for R rows and V vectors of columns. Values that a row does not see
// may be anything, NaN too, which a probability of 0 would not silence: they are not read, or cut out.
template <class T, int R, int V>
void weigh(const AttentionShape& s, const Scratch<T>& w, const Block& b, const Block* next, int row, int column,
           const Sight& sees, const int (&positions)[R]) {
    constexpr int per_tile = kLanes / per_unit<T>;
    f32x16 acc[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++)
            acc[r][v] = load<f32x16>(w.acc + size_t(row + r) * w.width + column + v * kLanes) * w.factor[row + r];
    auto add = [&](int j, auto bits_of) {
        size_t at = size_t(j % per_tile) * s.dim_v + column;
        const uint32_t* from = b.v[j / per_tile] + at;
        for (int v = 0; v < V; v++) {
            if (next) __builtin_prefetch(next->v[j / per_tile] + at + v * kLanes);
            u32x16 value = load<u32x16>(from + v * kLanes);
            for (int r = 0; r < R; r++)
                acc[r][v] = mac<T>(acc[r][v], bits_of(value, r), w.p[size_t(row + r) * kKeys + j]);
        }
    };
    auto add_seen = [&](int from, int to) {
        for (int j = from; j < to; j++)
            add(j, [&](u32x16 value, int r) { return value & seen_bits<T>(s, b, j, positions[r]); });
    };
    add_seen(sees.start, sees.whole);
    for (int j = sees.whole; j < sees.whole_end; j++) add(j, [](u32x16 value, int) { return value; });
    add_seen(sees.whole_end, sees.end);
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(w.acc + size_t(row + r) * w.width + column + v * kLanes, acc[r][v]);
}

template <class T, int R>
void attend_rows(const AttentionShape& s, const Scratch<T>& w, const Block& b, const Block* next, int row, int group,
                 int first) {
    score<T, R>(s, w, b, next, row, group, first);
    int column = 0, positions[R];
    for (int r = 0; r < R; r++) {
        soften(w, row + r);
        positions[r] = first + (row + r) / group;
    }
    Sight sees = sight<T>(s, b, positions[0], positions[R - 1]);
    for (; column + kColumns * kLanes <= w.width; column += kColumns * kLanes)
        weigh<T, R, kColumns>(s, w, b, next, row, column, sees, positions);
    for (; column < w.width; column += kLanes) weigh<T, R, 1>(s, w, b, next, row, column, sees, positions);
}

}  // namespace

size_t attention_scratch(const AttentionShape& s) { return Scratch<float>(s, nullptr).used; }

template <class T>
void write_key(const AttentionShape& s, int kv_head, size_t slot, const T* key, T* keys) {
    size_t tile = slot / kLanes * s.kv_heads + kv_head;
    uint32_t* to = reinterpret_cast<uint32_t*>(keys) + tile * key_tile<T>(s) + slot % kLanes;
    for (int u = 0; u < s.dim / per_unit<T>; u++) to[size_t(u) * kLanes] = load<uint32_t>(key + u * per_unit<T>);
}

template <class T>
void write_value(const AttentionShape& s, int kv_head, size_t slot, const float* value, T* values) {
    constexpr int U = per_unit<T>;
    size_t tile = slot / kLanes * s.kv_heads + kv_head, lane = slot % kLanes;
    T* to = values + (tile * value_tile<T>(s) + lane / U * s.dim_v) * U + lane % U;
    for (int i = 0; i < s.dim_v; i++) to[size_t(i) * U] = from_float<T>(value[i]);
}

template <class T>
void attend(const AttentionShape& s, const Context& c, int kv_head, int first, int count, const T* q, size_t ldq,
            const T* keys, const T* values, T* out, size_t ldo, float* scratch) {
    int group = s.heads / s.kv_heads, rows = count * group;
    Scratch<T> w(s, scratch);
    for (int row = 0; row < rows; row++) {
        const T* from = q + (row / group) * ldq + size_t(kv_head * group + row % group) * s.dim;
        std::memcpy(w.q + size_t(row) * w.units, from, s.dim * sizeof(T));
        w.best[row] = kLowest;
        w.total[row] = 0;
    }
    std::fill(w.acc, w.acc + size_t(rows) * w.width, 0.0f);
    int oldest = s.window ? std::max(0, first - s.window + 1) : 0;
    oldest = oldest / kKeys * kKeys;
    Block b = find_block(s, c, kv_head, oldest, keys, values);
    for (int block = oldest; block < first + count; block += kKeys) {
        bool last = block + kKeys >= first + count;
        // Behind the last block comes the next head of the same sequence, or the last head once more.
        Block after = last ? find_block(s, c, std::min(kv_head + 1, s.kv_heads - 1), oldest, keys, values)
                           : find_block(s, c, kv_head, block + kKeys, keys, values);
        const Block* next = &after;  // for the first rows only: the others use what is there
        int row = 0;
        for (; row + kRows <= rows; row += kRows, next = nullptr)
            attend_rows<T, kRows>(s, w, b, next, row, group, first);
        switch (rows - row) {
            case 3: attend_rows<T, 3>(s, w, b, next, row, group, first); break;
            case 2: attend_rows<T, 2>(s, w, b, next, row, group, first); break;
            case 1: attend_rows<T, 1>(s, w, b, next, row, group, first); break;
        }
        b = after;
    }
    for (int row = 0; row < rows; row++) {
        T* to = out + (row / group) * ldo + size_t(kv_head * group + row % group) * s.dim_v;
        float inverse = 1.0f / w.total[row];
        for (int i = 0; i < s.dim_v; i++) to[i] = from_float<T>(w.acc[size_t(row) * w.width + i] * inverse);
    }
}

#define INSTANTIATE(T)                                                                                          \
    template void write_key<T>(const AttentionShape&, int, size_t, const T*, T*);                               \
    template void write_value<T>(const AttentionShape&, int, size_t, const float*, T*);                         \
    template void attend<T>(const AttentionShape&, const Context&, int, int, int, const T*, size_t, const T*,   \
                            const T*, T*, size_t, float*);
INSTANTIATE(float)
INSTANTIATE(bf16)

}  // namespace lm
