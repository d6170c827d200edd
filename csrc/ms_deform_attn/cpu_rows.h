// Sums over the rows of a packed slice: where nearly all the time goes.
#pragma once

#include "cpu_block.h"

namespace vitadapter_d2 {
namespace {

// Calls f with the column and the number of vectors of each chunk of a row.
template <class Row, class F>
inline void for_chunks(int64_t stride, F f) {
  constexpr int kLanes = VectorOf<typename Row::Compute>::kLanes;
  for (int64_t column = 0; column < stride;) {
    const int64_t left = (stride - column) / kLanes;
    if (left >= 8) {
      f(column, Constant<8>{});
      column += 8 * kLanes;
    } else if (left >= 4) {
      f(column, Constant<4>{});
      column += 4 * kLanes;
    } else if (left >= 2) {
      f(column, Constant<2>{});
      column += 2 * kLanes;
    } else if constexpr (Row::kUnit == kLanes) {
      f(column, Constant<1>{});
      column += kLanes;
    }
  }
}

// lines[q] = the weighted sum of query q's corners, for NV vectors of the row.
template <class Row, int NV, int LP, class A>
void gather(const Problem& p, const typename Row::Store* packed, int64_t queries, int64_t stride,
            const Corners<A>& corners, A* lines) {
  // Enough independent sums to fill the FMA pipes.
  constexpr int kSets = NV >= 8 ? 1 : NV == 4 ? 2 : 4;
  constexpr int kLanes = VectorOf<A>::kLanes;
  const int64_t samples = LP ? LP : p.L * p.P, run = block_samples<LP>(p);
  const A* const weights = corners.weight;
  const Index<A>* const at = corners.at;
  for (int64_t q = 0; q < queries; ++q) {
    Vector<A> sum[kSets][NV] = {};
    for (int64_t n = q * samples; n < (q + 1) * samples; ++n) {
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        Vector<A> row[NV];
        Row::load_row(packed + at[c * run + n], row);
        const A weight = weights[c * run + n];
#pragma GCC unroll 8
        for (int i = 0; i < NV; ++i) sum[c % kSets][i] += row[i] * weight;
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < NV; ++i) {
      Vector<A> total = sum[0][i];
      if constexpr (kSets >= 2) total += sum[1][i];
      if constexpr (kSets == 4) total += sum[2][i] + sum[3][i];
      store(lines + q * stride + i * kLanes, total);
    }
  }
}

template <int NV, class A>
inline void add_row(A* to, const Vector<A> (&row)[NV], A weight) {
  constexpr int kLanes = VectorOf<A>::kLanes;
#pragma GCC unroll 8
  for (int i = 0; i < NV; ++i) store(to + i * kLanes, load(to + i * kLanes) + row[i] * weight);
}

// Adds the dot products of corners' rows and grad_output to `dots`; with kScatter also
// weight * grad_output to the rows of `grad`.
template <class Row, int NV, int LP, bool kScatter, class A>
void differentiate_rows(const Problem& p, const typename Row::Store* packed, A* grad,
                        int64_t queries, int64_t stride, const Corners<A>& corners, const A* lines,
                        A* dots) {
  constexpr int kLanes = VectorOf<A>::kLanes;
  const int64_t samples = LP ? LP : p.L * p.P, run = block_samples<LP>(p);
  const A* const weights = corners.weight;
  const Index<A>* const at = corners.at;
  for (int64_t q = 0; q < queries; ++q) {
    Vector<A> out[NV];
    for (int i = 0; i < NV; ++i) out[i] = load(lines + q * stride + i * kLanes);
    for (int64_t n = q * samples; n < (q + 1) * samples; ++n) {
      Vector<A> dot[4];
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        Vector<A> row[NV];
        Row::load_row(packed + at[c * run + n], row);
        dot[c] = row[0] * out[0];
#pragma GCC unroll 8
        for (int i = 1; i < NV; ++i) dot[c] += row[i] * out[i];
        if constexpr (kScatter) add_row(grad + at[c * run + n], out, weights[c * run + n]);
      }
      add_sums<A>(dot[0], dot[1], dot[2], dot[3], dots + 4 * n);
    }
  }
}

// The scatter alone, for samples of one level and rows in [begin, begin + extent): elements.
template <int NV, class A>
void scatter_rows(const Problem& p, int64_t level, Index<A> begin, Index<A> extent, A* grad,
                  int64_t queries, int64_t stride, const Corners<A>& corners, const A* lines) {
  constexpr int kLanes = VectorOf<A>::kLanes;
  const int64_t run = block_samples(p);
  for (int64_t q = 0; q < queries; ++q) {
    Vector<A> out[NV];
    for (int i = 0; i < NV; ++i) out[i] = load(lines + q * stride + i * kLanes);
    const int64_t first = (q * p.L + level) * p.P;
    for (int64_t n = first; n < first + p.P; ++n) {
      for (int c = 0; c < 4; ++c) {
        const Index<A> at = corners.at[c * run + n];
        if (at >= begin && at - begin < extent)
          add_row(grad + at, out, corners.weight[c * run + n]);
      }
    }
  }
}

}  // namespace
}  // namespace vitadapter_d2
