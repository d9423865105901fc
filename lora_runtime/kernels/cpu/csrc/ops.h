// What the ops of a program share.
#pragma once

#include "program.h"

namespace lm {

template <class V>
V* row_of(const Buffer& b, int row) {
    return reinterpret_cast<V*>(b.data) + size_t(row) * b.width;
}

inline int rows_of(const Buffer& b, const Step& s) { return b.sampled ? s.sampled : s.rows; }

inline const Cover& cover_of(const Run& r, bool sampled) { return sampled ? r.sampled : r.all; }

// The piece of a row whose adapters may change something of this kind, else null.
inline const Piece* piece_of(const Run& r, int32_t kind, bool sampled, int row) {
    if (!(r.kinds & kind)) return nullptr;
    const Cover& cover = cover_of(r, sampled);
    int index = cover.piece_of[row];
    return index < 0 ? nullptr : &cover.pieces[index];
}

inline Norm norm_of(const Norm& n, const Run& r, bool sampled, int row, int width, float* scratch) {
    const Piece* piece = n.module < 0 ? nullptr : piece_of(r, kNorms, sampled, row);
    return piece ? updated_norm(r.step.segment, *piece, n, width, scratch) : n;
}

}  // namespace lm
