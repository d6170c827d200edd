// The arithmetic on a block's coordinates and weights, before the gather and after it.
#pragma once

#include "cpu_block.h"

namespace vitadapter_d2 {
namespace {

// What a run of samples combines to under `f`; runs of a known length are a multiple of four long.
template <int LP, class A, class F>
inline A reduce(const A* from, int64_t count, F f) {
  if constexpr (LP != 0) {
    Quad<A> all = load_quad(from);
    for (int i = 4; i < LP; i += 4) all = f(all, load_quad(from + i));
    all = f(all, Quad<A>{all[2], all[3], all[0], all[1]});
    return f(all, Quad<A>{all[1], all[0], all[3], all[2]})[0];
  } else {
    A all = from[0];
    for (int64_t i = 1; i < count; ++i) all = f(all, from[i]);
    return all;
  }
}

template <int LP, class A>
void softmax(const Problem& p, int64_t queries, const Block<A>& block) {
  const int64_t samples = LP ? LP : p.L * p.P, padded = block_samples<LP>(p);
  A* const attention = block.attention;
  A* const peak = block.peak;
  for (int64_t first = 0; first < queries * samples; first += samples) {
    const A highest = reduce<LP>(attention + first, samples,
                                 [](auto one, auto two) { return one > two ? one : two; });
    for (int64_t i = 0; i < samples; ++i) peak[first + i] = highest;
  }
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) attention[n] = exp_nonpositive(attention[n] - peak[n]);
  for (int64_t first = 0; first < queries * samples; first += samples) {
    const A scale =
        1 / reduce<LP>(attention + first, samples, [](auto one, auto two) { return one + two; });
    for (int64_t i = 0; i < samples; ++i) attention[first + i] *= scale;
  }
}

// One of a reference point's numbers, for each of its samples; kP is P if known.
template <int kP, class A>
inline void spread(const Problem& p, int64_t queries, const A* reference, A* to) {
  const int64_t points = kP ? kP : p.P;
  for (int64_t run = 0; run < queries * p.L; ++run) {
    const A number = reference[run * p.reference_numbers];
    for (int64_t i = 0; i < points; ++i) to[run * points + i] = number;
  }
}

template <class A>
void spread_reference(const Problem& p, int64_t queries, const Block<A>& block) {
  A* const to[4] = {block.x, block.y, block.step_x, block.step_y};
  for (int64_t i = 0; i < p.reference_numbers; ++i) {
    if (p.P == 4) {
      spread<4>(p, queries, block.reference + i, to[i]);
    } else {
      spread<0>(p, queries, block.reference + i, to[i]);
    }
  }
}

// Pixel coordinates from reference points and offsets.
template <class A>
void place_fused(const Problem& p, const Table<A>& table, int64_t queries, const Block<A>& block) {
  const int64_t padded = block_samples(p);
  spread_reference(p, queries, block);
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    block.offset_x[n] = block.raw[2 * n];
    block.offset_y[n] = block.raw[2 * n + 1];
    block.x[n] = block.x[n] * table.width[n] - A(0.5);
    block.y[n] = block.y[n] * table.height[n] - A(0.5);
  }
  if (p.reference_numbers == 2) {
#pragma GCC ivdep
    for (int64_t n = 0; n < padded; ++n) {
      block.x[n] += block.offset_x[n];
      block.y[n] += block.offset_y[n];
    }
    return;
  }
  const A half_step = A(0.5) / A(p.P);
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    block.step_x[n] *= table.width[n] * half_step;
    block.step_y[n] *= table.height[n] * half_step;
    block.x[n] += block.offset_x[n] * block.step_x[n];
    block.y[n] += block.offset_y[n] * block.step_y[n];
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
void find_corners(const Problem& p, const Table<A>& table, int64_t stride, const Block<A>& block) {
  using Reals = Vector<A>;
  using Integers = Vector<Index<A>>;
  const int64_t padded = block_samples(p);
  const Integers nowhere = Integers{} + Index<A>(p.S * stride);
  for (int64_t n = 0; n < padded; n += VectorOf<A>::kLanes) {
    const Reals attention = load(block.attention + n);
    const Reals width = load(table.width + n), height = load(table.height + n);
    const Integers columns = load(table.columns + n), rows = load(table.rows + n);
    Reals x = load(block.x + n), y = load(block.y + n);
    // False for NaN. A sample on the border of the guard has no gradient, as in the original
    // kernel.
    const Integers inside = (x > -1) & (y > -1) & (x < width) & (y < height);
    x = inside ? x : Reals{};
    y = inside ? y : Reals{};
    Integers column = __builtin_convertvector(x, Integers);
    Integers row = __builtin_convertvector(y, Integers);
    column += x < __builtin_convertvector(column, Reals);  // floor; true is -1
    row += y < __builtin_convertvector(row, Reals);
    const Reals right = x - __builtin_convertvector(column, Reals), left = 1 - right;
    const Reals bottom = y - __builtin_convertvector(row, Reals), top = 1 - bottom;
    const Integers has_left = inside & (column >= 0), has_right = inside & (column + 1 < columns);
    const Integers has_top = row >= 0, has_bottom = row + 1 < rows;
    const Integers first = (load(table.start + n) + row * columns + column) * Index<A>(stride);
    const Integers below = first + columns * Index<A>(stride);
    const Integers exists[4] = {has_left & has_top, has_right & has_top, has_left & has_bottom,
                                has_right & has_bottom};
    const Reals bilinear[4] = {left * top, right * top, left * bottom, right * bottom};
    const Integers at[4] = {first, first + Index<A>(stride), below, below + Index<A>(stride)};
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const Reals weight = exists[c] ? bilinear[c] * attention : Reals{};
      store(block.corners.weight + c * padded + n, weight);
      if constexpr (kBackward) {
        store(block.bilinear + c * padded + n, exists[c] ? bilinear[c] : Reals{});
        store(block.corners.at + c * padded + n, exists[c] ? at[c] : nowhere);
      } else {
        store(block.corners.at + c * padded + n, weight == 0 ? nowhere : at[c]);
      }
    }
    if constexpr (kBackward) {
      store(block.x + n, right);
      store(block.y + n, bottom);
      store(block.inside_attention + n, inside ? attention : Reals{});
    }
  }
}

// Reads a block and computes its samples; false `kBackward` leaves out what only gradients need.
template <bool kBackward, int LP, class A>
void prepare_block(const Task& task, const Table<A>& table, int64_t first, int64_t queries,
                   int64_t stride, const Block<A>& block) {
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
    place_fused(p, table, queries, block);
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
    const A b0 = block.bilinear[n], b1 = block.bilinear[padded + n];
    const A b2 = block.bilinear[2 * padded + n], b3 = block.bilinear[3 * padded + n];
    block.grad_attention[n] = (b0 == 0 ? A(0) : b0 * d0) + (b1 == 0 ? A(0) : b1 * d1) +
                              (b2 == 0 ? A(0) : b2 * d2) + (b3 == 0 ? A(0) : b3 * d3);
    const A grad_x = attention * ((d1 - d0) * (1 - bottom) + (d3 - d2) * bottom);
    const A grad_y = attention * ((d2 - d0) * (1 - right) + (d3 - d1) * right);
    block.grad_x[n] = attention == 0 ? A(0) : grad_x;
    block.grad_y[n] = attention == 0 ? A(0) : grad_y;
  }
}

// Zero where the gradient is, even if the factor is not finite.
template <class A>
inline A times(A gradient, A factor) {
  return gradient == 0 ? A(0) : gradient * factor;
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
      sums[2] += times(block.grad_x[n], block.offset_x[n]) * half_step;
      sums[3] += times(block.grad_y[n], block.offset_y[n]) * half_step;
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
      A* const products = block.peak;  // no longer needed
      const int64_t first = q * samples;
      for (int64_t n = first; n < first + samples; ++n) {
        products[n] = block.attention[n] * block.grad_attention[n];
      }
      const A inner =
          reduce<LP>(products + first, samples, [](auto one, auto two) { return one + two; });
      for (int64_t n = q * samples; n < (q + 1) * samples; ++n) {
        block.grad_attention[n] = block.attention[n] * (block.grad_attention[n] - inner);
      }
    }
  }
  const bool in_pixels = p.reference_numbers == 2;
#pragma GCC ivdep
  for (int64_t n = 0; n < padded; ++n) {
    block.raw[2 * n] = in_pixels ? block.grad_x[n] : times(block.grad_x[n], scale_x[n]);
    block.raw[2 * n + 1] = in_pixels ? block.grad_y[n] : times(block.grad_y[n], scale_y[n]);
  }
}

}  // namespace
}  // namespace vitadapter_d2
