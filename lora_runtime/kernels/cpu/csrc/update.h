// How the rows of one piece take what their adapters change in a module: base + sum w_i (adapter_i - base).
#pragma once

#include "gemm.h"
#include "rows.h"
#include "step.h"

namespace lm {

// Whether an adapter of the piece scales or replaces W x.
bool rescales(const Segment* segments, const Piece& piece, int module);

// One panel of products y = W x + b (first output of the linear, row stride ldy) of the piece's rows: W x times what
// the adapters leave of it, plus the products with their own weights. Of `outputs`, those from w.n on are the adapters'
// alone.
template <class T>
void rescale_panel(const Segment* segments, const Piece& piece, const Linear& w, int outputs, int panel, const T* x,
                   size_t ldx, float* y, size_t ldy, float* scratch);

constexpr size_t kRescaleScratch = size_t(kPieceRows) * kPanel;

// Adds LoRA, biases and tokens' rows of one linear to the piece's rows. `scratch` as for lora_rows.
template <class T>
void add_updates(const Segment* segments, const Piece& piece, const Linear& w, const T* x, size_t ldx, float* y,
                 size_t ldy, float* scratch);

// The norm as the piece's adapters have it; `scratch` holds 2 * width floats that it may point to.
Norm updated_norm(const Segment* segments, const Piece& piece, const Norm& n, int width, float* scratch);

// Turns the base's embedding y (width) of a token into the adapters'.
template <class T>
void update_embedding(const Segment* segments, const Piece& piece, int module, int token, float* y, int width,
                      float* scratch);

size_t embedding_scratch(int width);

// Most outputs that an adapter of the piece gives the module, at least `n`.
int outputs_of(const Segment* segments, const Piece& piece, int module, int n);

}  // namespace lm
