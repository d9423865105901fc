#include "linear_op.h"

#include <omp.h>

#include <algorithm>

namespace lm {
namespace {

template <class T>
struct NormOp : Op {
    int in, width, out;
    bool add;
    Norm n;
    size_t scratch() const override { return 2 * size_t(width); }
    void run(Program& p, Run& r, int thread) override {
        const Buffer &from = p.buffers[in], &to = p.buffers[out];
        int rows = rows_of(from, r.step);
        r.team.share(thread, rows, [&](int i) {
            const float* x = row_of<float>(from, i);
            Norm own = norm_of(n, r, from.sampled, i, width, r.scratch[thread].data());
            if (to.is_float)
                norm_row(own, x, width, row_of<float>(to, i), add);
            else
                norm_row(own, x, width, row_of<T>(to, i), add);
        });
    }
};

template <class T>
struct EmbedOp : Op {
    int out;
    Embedding e;
    int width = 0;
    size_t scratch() const override { return embedding_scratch(width) + lora_scratch(kMaxRank); }
    void run(Program& p, Run& r, int thread) override {
        const Buffer& to = p.buffers[out];
        r.team.share(thread, r.step.rows, [&](int i) {
            float* y = row_of<float>(to, i);
            int token = r.step.tokens[i];
            if (token >= e.tokens)
                std::fill(y, y + width, 0.0f);
            else if (e.rows)
                for (int j = 0; j < width; j++) y[j] = to_float(static_cast<const T*>(e.rows)[size_t(token) * width + j]);
            else
                unpack_row<T>(e.head, token, y);
            const Piece* piece = e.module < 0 ? nullptr : piece_of(r, kEmbedding, false, i);
            if (piece)
                update_embedding<T>(r.step.segment, *piece, e.module, token, y, width, r.scratch[thread].data());
            const float* position = e.positions ? e.positions + size_t(r.step.positions[i]) * width : nullptr;
            for (int j = 0; j < width; j++) y[j] = y[j] * e.scale + (position ? position[j] : 0.0f);
        });
    }
};

// Norm and rotation of queries and keys, the KV write, and the attention itself.
template <class T>
struct AttentionOp : Op {
    int in, q, out, layer;
    AttentionShape shape;
    Norm q_norm, k_norm;
    bool norms;
    int rotary;
    const float *cosines, *sines;

    size_t scratch() const override { return std::max(attention_scratch(shape), 6 * size_t(shape.dim)); }
    void run(Program& p, Run& r, int thread) override {
        const AttentionShape& s = shape;
        const Buffer &y = p.buffers[in], &queries = p.buffers[q], &to = p.buffers[out];
        T *keys = static_cast<T*>(r.step.keys[layer]), *values = static_cast<T*>(r.step.values[layer]);
        float* scratch = r.scratch[thread].data();
        r.team.share(thread, r.step.rows, [&](int i) {
            const float* row = row_of<float>(y, i);
            size_t slot = r.step.slots[i], position = r.step.positions[i];
            Norm of_q = norm_of(q_norm, r, false, i, s.dim, scratch + 2 * s.dim);
            Norm of_k = norm_of(k_norm, r, false, i, s.dim, scratch + 4 * s.dim);
            for (int h = 0; h < s.heads; h++)
                head(of_q, row + h * s.dim, position, row_of<T>(queries, i) + h * s.dim, scratch);
            row += s.heads * s.dim;
            for (int h = 0; h < s.kv_heads; h++) {
                T* key = reinterpret_cast<T*>(scratch + s.dim);
                head(of_k, row + h * s.dim, position, key, scratch);
                write_key(s, h, slot, key, keys);
            }
            row += s.kv_heads * s.dim;
            for (int h = 0; h < s.kv_heads; h++) write_value(s, h, slot, row + h * s.dim_v, values);
        });
        // Enough tiles: a thread takes all KV heads of one, which lie side by side in the cache.
        int tiles = int(r.tiles.size()), chunk = tiles >= 4 * r.step.threads ? s.kv_heads : 1;
        r.team.deal(tiles * s.kv_heads, chunk, [&](int task) {
            const QueryTile& t = r.tiles[task / s.kv_heads];
            attend<T>(s, t.context, task % s.kv_heads, t.first, t.count, row_of<T>(queries, t.row), queries.width,
                      keys, values, row_of<T>(to, t.row), to.width, scratch);
        });
    }
    void head(const Norm& n, const float* x, size_t position, T* to, float* scratch) const {
        if (norms) {
            norm_row(n, x, shape.dim, scratch, false);
            x = scratch;
        }
        size_t at = position * (rotary / 2);
        rotate_head(x, shape.dim, rotary, cosines + at, sines + at, to);
    }
};

template <class T>
struct ActivateOp : Op {
    Activation act;
    int in, gate, up, width, out;
    void run(Program& p, Run& r, int thread) override {
        const Buffer &from = p.buffers[in], &to = p.buffers[out];
        r.team.share(thread, r.step.rows, [&](int i) {
            const float* x = row_of<float>(from, i);
            activate_row(act, x + gate, up < 0 ? nullptr : x + up, width, row_of<T>(to, i));
        });
    }
};

struct GatherOp : Op {
    int in, out;
    void run(Program& p, Run& r, int thread) override {
        const Buffer &from = p.buffers[in], &to = p.buffers[out];
        r.team.share(thread, r.step.sampled, [&](int i) {
            std::memcpy(row_of<float>(to, i), row_of<float>(from, r.step.sampled_rows[i]), to.width * sizeof(float));
        });
    }
};

struct ArgmaxOp : Op {
    float softcap;
    int vocabulary, module;  // the lm_head's
    void run(Program& p, Run& r, int thread) override {
        const Buffer& logits = p.buffers[0];
        r.team.deal(r.step.sampled, 1, [&](int i) {
            float* row = row_of<float>(logits, i);
            const Piece* piece = module < 0 ? nullptr : piece_of(r, kHead, true, i);
            int columns = piece ? outputs_of(r.step.segment, *piece, module, vocabulary) : vocabulary;
            r.step.greedy[i] = argmax_row(row, columns, softcap);
            std::fill(row + columns, row + logits.width, -INFINITY);  // tokens that the row's adapters do not have
        });
    }
};

template <class T>
class ProgramOf final : public Program {
  public:
    void norm(int in, int width, int out, bool add, Norm n) override {
        auto op = std::make_unique<NormOp<T>>();
        op->in = in, op->width = width, op->out = out, op->add = add, op->n = n;
        ops.push_back(std::move(op));
    }
    void linear(int in, int out, bool add, std::vector<Linear> linears) override {
        auto op = std::make_unique<LinearOp<T>>();
        for (auto& w : linears) {
            op->total += panels(w.n);
            if (out == 0) head_ = w;
            if (add) product.width = std::max(product.width, w.n);
        }
        op->in = in, op->out = out, op->add = add, op->linears = std::move(linears);
        ops.push_back(std::move(op));
    }
    void embed(int out, Embedding e) override {
        auto op = std::make_unique<EmbedOp<T>>();
        op->out = out, op->e = e, op->width = buffers[out].width;
        ops.push_back(std::move(op));
    }
    void attention(int in, int q, int out, int layer, AttentionShape shape, Norm q_norm, Norm k_norm, bool norms,
                   int rotary, const float* cosines, const float* sines) override {
        auto op = std::make_unique<AttentionOp<T>>();
        op->in = in, op->q = q, op->out = out, op->layer = layer, op->shape = shape;
        op->q_norm = q_norm, op->k_norm = k_norm, op->norms = norms;
        op->rotary = rotary, op->cosines = cosines, op->sines = sines;
        ops.push_back(std::move(op));
    }
    void activate(Activation act, int in, int gate, int up, int width, int out) override {
        auto op = std::make_unique<ActivateOp<T>>();
        op->act = act, op->in = in, op->gate = gate, op->up = up, op->width = width, op->out = out;
        ops.push_back(std::move(op));
    }
    void gather(int in, int out) override {
        auto op = std::make_unique<GatherOp>();
        op->in = in, op->out = out;
        ops.push_back(std::move(op));
    }
    void argmax(float softcap, int added) override {
        auto op = std::make_unique<ArgmaxOp>();
        op->softcap = softcap, op->vocabulary = head_.n, op->module = head_.module;
        buffers[0].width = head_.n + added;
        ops.push_back(std::move(op));
    }

  private:
    Linear head_{};
    size_t value_size() const override { return sizeof(T); }
};

}  // namespace

std::unique_ptr<Program> make_program(bool use_bf16) {
    if (use_bf16) return std::make_unique<ProgramOf<bf16>>();
    return std::make_unique<ProgramOf<float>>();
}

int Program::buffer(int width, bool is_float, bool sampled) {
    buffers.push_back({width, is_float, sampled, {}, nullptr});
    return int(buffers.size()) - 1;
}

void Program::resize(Buffer& b, const Step& s) {
    size_t bytes = size_t(rows_of(b, s)) * b.width * (b.is_float ? sizeof(float) : value_size());
    if (b.memory.size() < bytes) b.memory.resize(bytes);
    b.data = b.memory.data();
}

void Program::prepare(const Step& s, int32_t kinds) {
    for (size_t i = 1; i < buffers.size(); i++) resize(buffers[i], s);
    if (kinds & kRescales) resize(product, s);
    buffers[0].data = reinterpret_cast<char*>(s.logits);
    size_t most = 0, width = 0;
    for (auto& op : ops) most = std::max(most, op->scratch()), width = std::max(width, op->fixed_width());
    if (fixed_.size() < width * s.rows) fixed_.resize(width * s.rows);
    if (width && fixed_scale_.size() < size_t(s.rows)) fixed_scale_.resize(s.rows);
    scratch_.resize(std::max(scratch_.size(), size_t(s.threads)));
    for (auto& v : scratch_)
        if (v.size() < most) v.resize(most);
}

void Program::run(const Step& s) {
    int32_t kinds = 0;
    for (int i = 0; i < s.segments; i++) kinds |= s.segment[i].kinds;
    prepare(s, kinds);
    Team team;
    Cover sampled = kinds & (kNorms | kHead) ? cover(s, true) : Cover{};
    Run r{s, query_tiles(s), kinds, cover(s, false), std::move(sampled), scratch_, fixed_, fixed_scale_, team};
#pragma omp parallel num_threads(s.threads)
    {
#pragma omp single
        team.threads = omp_get_num_threads();  // may be fewer than asked for
        int thread = omp_get_thread_num();
        for (auto& op : ops) {
            double start = timed ? omp_get_wtime() : 0;
            op->run(*this, r, thread);
            if (timed && thread == 0) op->seconds += omp_get_wtime() - start;
        }
    }
}

}  // namespace lm
