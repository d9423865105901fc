// The C interface that Python calls through ctypes; see ../library.py for the other side.
#include <omp.h>

#include "norms.h"
#include "program.h"
#include "sample.h"

using namespace lm;

namespace {

template <class T>
void gemm(const Linear& w, const T* x, int rows, float* y, int threads) {
    std::vector<int16_t> fixed(w.scale ? size_t(rows) * w.k : 0);
    std::vector<float> scale(rows);
    int count = panels(w.n);
#pragma omp parallel num_threads(threads)
    {
        std::vector<uint32_t> scratch(gemm_scratch(w));
        if (w.scale) {
#pragma omp for
            for (int i = 0; i < rows; i++)
                scale[i] = quantize_row(x + size_t(i) * w.k, w.k, fixed.data() + size_t(i) * w.k);
        }
#pragma omp for schedule(static)
        for (int i = 0; i < count; i++) {
            if (w.scale)
                gemm_panel_int8(w, i, {fixed.data(), scale.data()}, rows, y, w.n, false, scratch.data());
            else
                gemm_panel(w, i, x, w.k, rows, y, w.n, false);
        }
    }
}

template <class T>
void lora(const Step& s, const T* x, int in, float* y, int out) {
    auto work = cover(s, false).pieces;
#pragma omp parallel for schedule(dynamic) num_threads(s.threads)
    for (size_t i = 0; i < work.size(); i++) {
        const Piece& piece = work[i];
        size_t row = piece.start;
        for (int j : piece.segments) {
            const Segment& seg = s.segment[j];
            std::vector<float> scratch(lora_scratch(seg.table->rank));
            lora_rows(*seg.table, seg.weight, x + row * in, in, in, piece.end - piece.start, y + row * out, out,
                      scratch.data());
        }
    }
}

template <class T>
void paged_attention(const Step& s, const AttentionShape& shape, const T* q, T* out) {
    auto tiles = query_tiles(s);
    int tasks = int(tiles.size()) * shape.kv_heads;
    size_t ldq = size_t(shape.heads) * shape.dim, ldo = size_t(shape.heads) * shape.dim_v;
    const T *keys = static_cast<const T*>(s.keys[0]), *values = static_cast<const T*>(s.values[0]);
#pragma omp parallel num_threads(s.threads)
    {
        std::vector<float> scratch(attention_scratch(shape));
#pragma omp for schedule(dynamic)
        for (int task = 0; task < tasks; task++) {
            const QueryTile& t = tiles[task / shape.kv_heads];
            attend(shape, t.context, task % shape.kv_heads, t.first, t.count, q + t.row * ldq, ldq, keys, values,
                   out + t.row * ldo, ldo, scratch.data());
        }
    }
}

// What is to be packed of one adapter; see Packing.
struct PackJob {
    const void* from;
    void* to;
    int32_t kind, rows, columns, unused;
};

enum Packing : int32_t { kLoraA = 0, kLoraB = 1, kPanels = 2, kCopy = 3 };  // kCopy: bytes rows * columns

template <class T>
void pack_part(const PackJob& job) {
    const T* from = static_cast<const T*>(job.from);
    T* to = static_cast<T*>(job.to);
    if (job.kind == kLoraA) pack_lora_a(from, job.rows, job.columns, to);
    if (job.kind == kLoraB) pack_lora_b(from, job.columns, job.rows, to);
    if (job.kind == kPanels) pack(from, job.rows, job.columns, to, 1);
    if (job.kind == kCopy) std::memcpy(job.to, job.from, size_t(job.rows) * job.columns);
}

}  // namespace

extern "C" {

Program* lm_new(int use_bf16) { return make_program(use_bf16).release(); }
void lm_delete(Program* p) { delete p; }
int lm_buffer(Program* p, int width, int is_float, int sampled) { return p->buffer(width, is_float, sampled); }
void lm_norm(Program* p, int in, int width, int out, int add, const Norm* n) { p->norm(in, width, out, add, *n); }
void lm_linear(Program* p, int in, int out, int add, const Linear* linears, int count) {
    p->linear(in, out, add, {linears, linears + count});
}
void lm_embed(Program* p, int out, const Embedding* e) { p->embed(out, *e); }
void lm_attention(Program* p, int in, int q, int out, int layer, const AttentionShape* shape, const Norm* q_norm,
                  const Norm* k_norm, int rotary, const float* cosines, const float* sines) {
    p->attention(in, q, out, layer, *shape, q_norm ? *q_norm : Norm{}, k_norm ? *k_norm : Norm{}, q_norm != nullptr,
                 rotary, cosines, sines);
}
void lm_activate(Program* p, int act, int in, int gate, int up, int width, int out) {
    p->activate(Activation(act), in, gate, up, width, out);
}
void lm_gather(Program* p, int in, int out) { p->gather(in, out); }
void lm_argmax(Program* p, float softcap, int added) { p->argmax(softcap, added); }
void lm_run(Program* p, const Step* s) { p->run(*s); }

// Seconds spent in each op since the last call; the first call switches the clock on. Returns the number of ops.
int lm_times(Program* p, double* seconds) {
    p->timed = true;
    for (size_t i = 0; i < p->ops.size(); i++) {
        if (seconds) seconds[i] = p->ops[i]->seconds;
        p->ops[i]->seconds = 0;
    }
    return int(p->ops.size());
}

void lm_pack(int use_bf16, const void* w, int n, int k, void* out) {
    if (use_bf16)
        pack(static_cast<const bf16*>(w), n, k, static_cast<bf16*>(out), omp_get_max_threads());
    else
        pack(static_cast<const float*>(w), n, k, static_cast<float*>(out), omp_get_max_threads());
}
void lm_pack_int8(const int8_t* w, int n, int k, int8_t* out) { pack_int8(w, n, k, out, omp_get_max_threads()); }

// All of an adapter, on the calling thread alone: the others may be at a step.
void lm_pack_adapter(int use_bf16, const PackJob* jobs, int count) {
    for (int i = 0; i < count; i++) {
        if (use_bf16)
            pack_part<bf16>(jobs[i]);
        else
            pack_part<float>(jobs[i]);
    }
}

// See updated_norms.
void lm_updated_norms(int use_bf16, const Linear* w, const float* a, const float* b, int rank, float scaling,
                      float* norms) {
    if (use_bf16)
        updated_norms<bf16>(*w, a, b, rank, scaling, norms);
    else
        updated_norms<float>(*w, a, b, rank, scaling, norms);
}

// Rows first..first+count-1 of a packed matrix into (count, k) floats.
void lm_unpack(int use_bf16, const Linear* w, int first, int count, float* out) {
    for (int i = 0; i < count; i++, out += w->k) {
        if (use_bf16)
            unpack_row<bf16>(*w, first + i, out);
        else
            unpack_row<float>(*w, first + i, out);
    }
}

// One token for each row, into its `token`.
void lm_sample(SampleRow* rows, int count, int vocab, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> scratch(vocab);
#pragma omp for schedule(dynamic)
        for (int i = 0; i < count; i++) sample_row(rows[i], vocab, scratch.data());
    }
}

// y (rows, n) = x (rows, k) W^T of one packed linear.
void lm_gemm(int use_bf16, const Linear* w, const void* x, int rows, float* y, int threads) {
    if (use_bf16)
        gemm(*w, static_cast<const bf16*>(x), rows, y, threads);
    else
        gemm(*w, static_cast<const float*>(x), rows, y, threads);
}

// Adds into y (rows, out) every segment's update; each segment's table is one entry.
void lm_lora(int use_bf16, const Step* s, const void* x, int in, float* y, int out) {
    if (use_bf16)
        lora(*s, static_cast<const bf16*>(x), in, y, out);
    else
        lora(*s, static_cast<const float*>(x), in, y, out);
}

// out (rows, heads, dim_v) = attention of q (rows, heads, dim) over layer 0 of the step's caches.
void lm_paged_attention(int use_bf16, const Step* s, const AttentionShape* shape, const void* q, void* out) {
    if (use_bf16)
        paged_attention(*s, *shape, static_cast<const bf16*>(q), static_cast<bf16*>(out));
    else
        paged_attention(*s, *shape, static_cast<const float*>(q), static_cast<float*>(out));
}
}
