// The arithmetic on a block's coordinates and weights, before the gather and after it.
#pragma once

#include "cpu_block.h"

namespace vitadapter_d2 {
namespace {

template <int LP, class A>
void softmax(const Problem& p, int64_t queries, const Block<A>& block) {
  const int64_t samples = LP ? LP : p.L * p.P, padded = block_samples(p);
  A* const attention = block.attention;
  A* const peak = block.peak;
  for (int64_t q = 0; q < queries; ++q) {
    A highest = attention[q * samples];
    for (int64_t i = 1; i < samples; ++i) {
      const A logit = attention[q * samples + i];
      highest = logit > highest ? logit : highest;
    }
    for (int64_t i = 0; i < samples; ++i) peak[q * samples + i] = highest;
  }
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) attention[n] = exp_nonpositive(attention[n] - peak[n]);
  for (int64_t q = 0; q < queries; ++q) {
    A sum = 0;
    for (int64_t i = 0; i < samples; ++i) sum += attention[q * samples + i];
    const A scale = 1 / sum;
    for (int64_t i = 0; i < samples; ++i) attention[q * samples + i] *= scale;
  }
}

// Pixel coordinates from reference points and offsets.
template <class A>
void place_fused(const Problem& p, const Table<A>& table, const Block<A>& block) {
  const int64_t padded = block_samples(p);
  const A half_step = A(0.5) / A(p.P);
  A* const x = block.x;
  A* const y = block.y;
  const bool boxes = p.reference_numbers == 4;
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    const A* reference = block.reference + table.reference[n];
    block.offset_x[n] = block.raw[2 * n];
    block.offset_y[n] = block.raw[2 * n + 1];
    x[n] = reference[0] * table.width[n] - A(0.5);
    y[n] = reference[1] * table.height[n] - A(0.5);
  }
  if (!boxes) {
#pragma GCC ivdep
    for (int64_t n = 0; n < padded; ++n) {
      x[n] += block.offset_x[n];
      y[n] += block.offset_y[n];
    }
    return;
  }
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    const A* reference = block.reference + table.reference[n];
    block.step_x[n] = reference[2] * table.width[n] * half_step;
    block.step_y[n] = reference[3] * table.height[n] * half_step;
    x[n] += block.offset_x[n] * block.step_x[n];
    y[n] += block.offset_y[n] * block.step_y[n];
  }
}

template <class A>
void place_plain(const Problem& p, const Table<A>& table, const Block<A>& block) {
  const int64_t padded = block_samples(p);
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    block.x[n] = block.raw[2 * n] * table.width[n] - A(0.5);
    block.y[n] = block.raw[2 * n + 1] * table.height[n] - A(0.5);
  }
}

// The four corners of each sample: where their rows are and what they weigh. The forward sends a
// corner of weight zero to the row of zeros; the backward needs its value for the location's
// derivative.
template <bool kBackward, class A>
void find_corners(const Problem& p, const Table<A>& table, int32_t stride, const Block<A>& block) {
  const int64_t padded = block_samples(p);
  const int32_t nowhere = int32_t(p.S) * stride;
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    const A attention = block.attention[n];
    A x = block.x[n], y = block.y[n];
    // False for NaN. A sample on the border of the guard has no gradient, as in the original
    // kernel.
    const bool inside = (x > -1) & (y > -1) & (x < table.width[n]) & (y < table.height[n]);
    x = inside ? x : A(0);
    y = inside ? y : A(0);
    int32_t column = int32_t(x), row = int32_t(y);
    column -= x < A(column);
    row -= y < A(row);
    const A right = x - A(column), bottom = y - A(row), left = 1 - right, top = 1 - bottom;
    const bool has_left = inside & (column >= 0);
    const bool has_right = inside & (column + 1 < table.columns[n]);
    const bool has_top = row >= 0, has_bottom = row + 1 < table.rows[n];
    const int32_t first = (table.start[n] + row * table.columns[n] + column) * stride;
    const int32_t below = first + table.columns[n] * stride;
    const bool exists[4] = {has_left && has_top, has_right && has_top, has_left && has_bottom,
                            has_right && has_bottom};
    const A bilinear[4] = {left * top, right * top, left * bottom, right * bottom};
    const int32_t at[4] = {first, first + stride, below, below + stride};
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const A weight = exists[c] ? bilinear[c] * attention : A(0);
      block.weight[c][n] = weight;
      if constexpr (kBackward) {
        block.bilinear[c][n] = exists[c] ? bilinear[c] : A(0);
        block.at[c][n] = exists[c] ? at[c] : nowhere;
      } else {
        block.at[c][n] = weight == 0 ? nowhere : at[c];
      }
    }
    if constexpr (kBackward) {
      block.x[n] = right;
      block.y[n] = bottom;
      block.inside_attention[n] = inside ? attention : A(0);
    }
  }
}

// Reads a block and computes its samples; false `kBackward` leaves out what only gradients need.
template <bool kBackward, int LP, class A>
void prepare_block(const Task& task, const Table<A>& table, int64_t first, int64_t queries,
                   int32_t stride, const Block<A>& block) {
  const Problem& p = *task.problem;
  const int64_t samples = p.L * p.P, b = task.group / p.M, m = task.group % p.M;
  const int64_t at = ((b * p.Q + first) * p.M + m) * samples;
  read<2 * LP>(p.locations, 2 * at, 2 * samples * p.M, queries, 2 * samples, block.raw);
  read<LP>(p.weights, at, samples * p.M, queries, samples, block.attention);
  if (p.reference_numbers) {
    const int64_t numbers = p.L * p.reference_numbers;
    const int64_t row = (p.reference_shared ? 0 : b * p.Q) + first;
    read<0>(p.reference, row * numbers, numbers, queries, numbers, block.reference);
    softmax<LP>(p, queries, block);
    place_fused(p, table, block);
  } else {
    place_plain(p, table, block);
  }
  find_corners<kBackward>(p, table, stride, block);
}

// ---- gradients, from the dot products of corners and grad_output ----

template <class A>
void differentiate(const Problem& p, const Block<A>& block) {
  const int64_t padded = block_samples(p);
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    const A attention = block.inside_attention[n], right = block.x[n], bottom = block.y[n];
    const A d0 = block.dot[4 * n], d1 = block.dot[4 * n + 1];
    const A d2 = block.dot[4 * n + 2], d3 = block.dot[4 * n + 3];
    const A b0 = block.bilinear[0][n], b1 = block.bilinear[1][n];
    const A b2 = block.bilinear[2][n], b3 = block.bilinear[3][n];
    block.grad_attention[n] = (b0 == 0 ? A(0) : b0 * d0) + (b1 == 0 ? A(0) : b1 * d1) +
                              (b2 == 0 ? A(0) : b2 * d2) + (b3 == 0 ? A(0) : b3 * d3);
    const A grad_x = attention * ((d1 - d0) * (1 - bottom) + (d3 - d2) * bottom);
    const A grad_y = attention * ((d2 - d0) * (1 - right) + (d3 - d1) * right);
    block.grad_x[n] = attention == 0 ? A(0) : grad_x;
    block.grad_y[n] = attention == 0 ? A(0) : grad_y;
  }
}

// Sums over the points of a level, (queries, L, numbers), into this group's partials.
template <class A>
void reference_gradient(const Task& task, const Table<A>& table, int64_t first, int64_t queries,
                        const Block<A>& block) {
  const Problem& p = *task.problem;
  const int64_t numbers = p.reference_numbers;
  const A half_step = A(0.5) / A(p.P);
  A* to = static_cast<A*>(p.reference_partials) + (task.group * p.Q + first) * p.L * numbers;
  for (int64_t run = 0; run < queries * p.L; ++run, to += numbers) {
    A sums[4] = {};
    for (int64_t n = run * p.P; n < (run + 1) * p.P; ++n) {
      sums[0] += block.grad_x[n];
      sums[1] += block.grad_y[n];
      sums[2] += block.grad_x[n] * block.offset_x[n] * half_step;
      sums[3] += block.grad_y[n] * block.offset_y[n] * half_step;
    }
    for (int64_t i = 0; i < numbers; ++i) {
      to[i] = sums[i] * (i % 2 ? table.height[run * p.P] : table.width[run * p.P]);
    }
  }
}

// grad_x, grad_y in pixels -> raw, the gradient of what the caller gave; grad_attention likewise.
template <int LP, class A>
void finish_gradients(const Problem& p, const Table<A>& table, int64_t queries,
                      const Block<A>& block) {
  const int64_t padded = block_samples(p), samples = LP ? LP : p.L * p.P;
  const A* scale_x = table.width;
  const A* scale_y = table.height;
  if (p.reference_numbers) {
    scale_x = block.step_x;
    scale_y = block.step_y;
    for (int64_t q = 0; q < queries; ++q) {
      A inner = 0;
      for (int64_t n = q * samples; n < (q + 1) * samples; ++n) {
        inner += block.attention[n] * block.grad_attention[n];
      }
      for (int64_t n = q * samples; n < (q + 1) * samples; ++n) {
        block.grad_attention[n] = block.attention[n] * (block.grad_attention[n] - inner);
      }
    }
  }
  const bool in_pixels = p.reference_numbers == 2;
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    block.raw[2 * n] = in_pixels ? block.grad_x[n] : block.grad_x[n] * scale_x[n];
    block.raw[2 * n + 1] = in_pixels ? block.grad_y[n] : block.grad_y[n] * scale_y[n];
  }
}

}  // namespace
}  // namespace vitadapter_d2
