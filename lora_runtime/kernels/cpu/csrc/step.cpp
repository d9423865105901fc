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

std::vector<Piece> pieces(const Step& s) {
    std::vector<int32_t> cuts;
    for (int i = 0; i < s.segments; i++) {
        cuts.push_back(s.segment[i].start);
        cuts.push_back(s.segment[i].end);
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    int limit = std::clamp(s.rows / (4 * s.threads), 1, 16);
    std::vector<Piece> out;
    for (size_t c = 0; c + 1 < cuts.size(); c++) {
        std::vector<int32_t> covering;
        for (int i = 0; i < s.segments; i++)
            if (s.segment[i].start <= cuts[c] && s.segment[i].end >= cuts[c + 1]) covering.push_back(i);
        if (covering.empty()) continue;
        for (int row = cuts[c]; row < cuts[c + 1]; row += limit)
            out.push_back({row, std::min(row + limit, cuts[c + 1]), covering});
    }
    return out;
}

}  // namespace lm
