#include "step.h"

#include <algorithm>

namespace lm {

std::vector<QueryTile> query_tiles(const Step& s) {
    std::vector<QueryTile> tiles;
    for (int i = 0; i < s.sequences; i++) {
        int start = s.query_start[i], count = s.query_start[i + 1] - start;
        Context context{s.block_tables + size_t(i) * s.table_width, s.block_size, s.context_lengths[i]};
        int first = context.length - count;
        for (int q = 0; q < count; q += kQueries)
            tiles.push_back({start + q, first + q, std::min(kQueries, count - q), context});
    }
    return tiles;
}

Cover cover(const Step& s, bool sampled) {
    auto number = [&](int32_t row) {
        return sampled ? int32_t(std::lower_bound(s.sampled_rows, s.sampled_rows + s.sampled, row) - s.sampled_rows) : row;
    };
    std::vector<int32_t> starts, ends, cuts;
    for (int i = 0; i < s.segments; i++) {
        starts.push_back(number(s.segment[i].start));
        ends.push_back(number(s.segment[i].end));
    }
    cuts.insert(cuts.end(), starts.begin(), starts.end());
    cuts.insert(cuts.end(), ends.begin(), ends.end());
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    int rows = sampled ? s.sampled : s.rows, limit = std::clamp(rows / (4 * s.threads), 1, kPieceRows);
    Cover out{{}, std::vector<int32_t>(rows, -1)};
    for (size_t c = 0; c + 1 < cuts.size(); c++) {
        std::vector<int32_t> covering;
        for (int i = 0; i < s.segments; i++)
            if (starts[i] <= cuts[c] && ends[i] >= cuts[c + 1]) covering.push_back(i);
        if (covering.empty()) continue;
        for (int row = cuts[c]; row < cuts[c + 1]; row += limit) {
            int end = std::min(row + limit, cuts[c + 1]);
            std::fill(out.piece_of.begin() + row, out.piece_of.begin() + end, int32_t(out.pieces.size()));
            out.pieces.push_back({row, end, covering});
        }
    }
    return out;
}

}  // namespace lm
