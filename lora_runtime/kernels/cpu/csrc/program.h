// A frozen model as a list of ops over row buffers, run in one parallel region without Python.
#pragma once

#include <memory>
#include <vector>

#include "gemm.h"
#include "rows.h"
#include "step.h"
#include "team.h"
#include "update.h"

namespace lm {

// (rows, width) values of a step; `sampled` buffers have one row per sampled row instead.
struct Buffer {
    int32_t width;
    bool is_float;  // else the program's T
    bool sampled;
    std::vector<char> memory;
    char* data;
};

// What an op sees of a step; shared by all threads.
struct Run {
    const Step& step;
    std::vector<QueryTile> tiles;
    int32_t kinds;                             // of all segments
    Cover all, sampled;                        // the latter only where the lm_head or norms are changed
    std::vector<std::vector<float>>& scratch;  // per thread
    std::vector<int16_t>& fixed;               // the input of the int8 linear that runs
    std::vector<float>& fixed_scale;
    Team& team;
};

// Token embeddings as rows, or where `rows` is null those of the packed `head` that they are tied to.
struct Embedding {
    const void* rows;
    float scale;
    int32_t module;          // row of the adapters' tables, -1: none
    const float* positions;  // learned position embeddings, or null
    int32_t tokens, unused;  // rows; what is above is the adapters'
    Linear head;
};

constexpr int kMaxRank = 4096;

class Program;

// run is called by all threads together; they share its work through the team, whose loops end in barriers.
struct Op {
    virtual ~Op() = default;
    virtual void run(Program& p, Run& r, int thread) = 0;
    virtual size_t scratch() const { return 0; }      // floats per thread
    virtual size_t fixed_width() const { return 0; }  // inputs of an int8 linear
    double seconds = 0;
};

class Program {
  public:
    virtual ~Program() = default;
    virtual void norm(int in, int width, int out, bool add, Norm n) = 0;
    virtual void linear(int in, int out, bool add, std::vector<Linear> linears) = 0;
    virtual void embed(int out, Embedding e) = 0;
    virtual void attention(int in, int q, int out, int layer, AttentionShape shape, Norm q_norm, Norm k_norm,
                           bool norms, int rotary, const float* cosines, const float* sines) = 0;
    virtual void activate(Activation act, int in, int gate, int up, int width, int out) = 0;
    virtual void gather(int in, int out) = 0;
    virtual void argmax(float softcap, int added) = 0;

    int buffer(int width, bool is_float, bool sampled);
    void run(const Step& s);

    std::vector<Buffer> buffers;
    Buffer product{0, true, false, {}, nullptr};  // of a linear that adds, where adapters rescale it first
    std::vector<std::unique_ptr<Op>> ops;
    bool timed = false;

  protected:
    Program() { buffer(0, true, true); }  // buffer 0: the logits, in the caller's memory

  private:
    void prepare(const Step& s, int32_t kinds);
    void resize(Buffer& b, const Step& s);
    virtual size_t value_size() const = 0;
    std::vector<std::vector<float>> scratch_;
    std::vector<int16_t> fixed_;
    std::vector<float> fixed_scale_;
};

std::unique_ptr<Program> make_program(bool use_bf16);

}  // namespace lm
