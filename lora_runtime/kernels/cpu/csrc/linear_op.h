// Linears that read one input, side by side, and what rows' adapters change in them.
#pragma once

#include <algorithm>

#include "ops.h"

namespace lm {

template <class T>
struct LinearOp : Op {
    int in, out;
    bool add;
    std::vector<Linear> linears;
    int total = 0;

    size_t scratch() const override {
        size_t most = std::max(lora_scratch(kMaxRank), kRescaleScratch);
        for (auto& w : linears) most = std::max(most, gemm_scratch(w));
        return most;
    }
    size_t fixed_width() const override { return linears[0].scale ? linears[0].k : 0; }
    void run(Program& p, Run& r, int thread) override {
        const Buffer &x = p.buffers[in], &y = p.buffers[out];
        int rows = rows_of(x, r.step);
        float* scratch = r.scratch[thread].data();
        bool updated = !cover_of(r, x.sampled).pieces.empty() && (!x.sampled || r.kinds & kHead);
        bool rescaled = updated && r.kinds & kRescales && has_rescaled(r, x.sampled);
        // Rows without a change stay bit for bit the same: the sum with what was there comes last either way.
        const Buffer& first = rescaled && add ? p.product : y;
        bool adds = add && !rescaled;
        if (fixed_width()) quantize(x, rows, r, thread);
        r.team.share(thread, total, [&](int panel) {
            const Linear* w = linears.data();
            for (; panel >= panels(w->n); w++) panel -= panels(w->n);
            float* to = row_of<float>(first, 0) + w->column;
            if (w->scale)
                gemm_panel_int8(*w, panel, {r.fixed.data(), r.fixed_scale.data()}, rows, to, first.width, adds,
                                reinterpret_cast<uint32_t*>(scratch));
            else
                gemm_panel(*w, panel, row_of<T>(x, 0), x.width, rows, to, first.width, adds);
        });
        if (rescaled) rescale(x, first, r, scratch);
        if (rescaled && add)
            r.team.share(thread, rows, [&](int i) {
                const float* from = row_of<float>(first, i);
                float* to = row_of<float>(y, i) + linears[0].column;
                for (int j = 0; j < linears[0].n; j++) to[j] += from[j];
            });
        if (updated) update(x, y, r, scratch);
    }
    void quantize(const Buffer& x, int rows, Run& r, int thread) {
        int k = linears[0].k;
        r.team.share(thread, rows, [&](int i) {
            r.fixed_scale[i] = quantize_row(row_of<T>(x, i), k, r.fixed.data() + size_t(i) * k);
        });
    }
    bool has_rescaled(const Run& r, bool sampled) const {
        for (auto& piece : cover_of(r, sampled).pieces)
            for (auto& w : linears)
                if (rescales(r.step.segment, piece, w.module)) return true;
        return false;
    }
    void rescale(const Buffer& x, const Buffer& y, Run& r, float* scratch) {
        const Cover& cover = cover_of(r, x.sampled);
        // Panels of all linears, those that tokens were added to included; cut so that one row's work is spread.
        auto outputs = [&](const Linear& w) { return x.sampled ? y.width : w.n; };
        int all = 0;
        for (auto& w : linears) all += panels(outputs(w));
        int tasks = (all + kPanels - 1) / kPanels, pieces = int(cover.pieces.size());
        r.team.deal(pieces * tasks, 1, [&](int task) {
            const Piece& piece = cover.pieces[task % pieces];  // neighbours in time share an adapter's panels
            int start = task / pieces * kPanels, end = std::min(start + kPanels, all), before = 0;
            for (auto& w : linears) {
                int count = panels(outputs(w));
                if (rescales(r.step.segment, piece, w.module))
                    for (int i = std::max(start - before, 0); i < std::min(end - before, count); i++)
                        rescale_panel(r.step.segment, piece, w, outputs(w), i, row_of<T>(x, 0), x.width,
                                      row_of<float>(y, 0) + w.column, y.width, scratch);
                before += count;
            }
        });
    }
    void update(const Buffer& x, const Buffer& y, Run& r, float* scratch) {
        const Cover& cover = cover_of(r, x.sampled);
        // Enough pieces: one takes all linears, whose weights lie one behind the other.
        int pieces = int(cover.pieces.size()), parts = pieces >= 4 * r.step.threads ? 1 : int(linears.size());
        int each = int(linears.size()) / parts;
        r.team.deal(pieces * parts, 1, [&](int task) {
            const Piece& piece = cover.pieces[task / parts];
            const Linear* first = &linears[task % parts * each];
            for (const Linear* w = first; w < first + each; w++)
                add_updates(r.step.segment, piece, *w, row_of<T>(x, 0), x.width, row_of<float>(y, 0) + w->column,
                            y.width, scratch);
        });
    }
    static constexpr int kPanels = 16;
};

}  // namespace lm
