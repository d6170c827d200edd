// The arithmetic on one sample, for the CUDA kernels and for their test on the host: plain
// functions without threads, memory or torch. A is the compute type, float or double.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define VITADAPTER_HD __host__ __device__ __forceinline__
#else
#define VITADAPTER_HD inline
#endif

namespace vitadapter_d2 {
namespace {

struct Level {
  int32_t height, width;
  int32_t start;  // its first row in value
};

// A place in a level, in pixels. `step` is how far a unit of what the caller gave moves it.
template <class A>
struct Place {
  A x, y, step_x, step_y;
};

template <class A>
VITADAPTER_HD Place<A> place_plain(A x, A y, const Level& level) {
  return {x * A(level.width) - A(0.5), y * A(level.height) - A(0.5), A(level.width),
          A(level.height)};
}

// Two numbers: (x, y), offsets in pixels. Four: (cx, cy, w, h), offsets in half a side per point.
template <class A>
VITADAPTER_HD Place<A> place_fused(const A (&reference)[4], bool box, A half_step, A offset_x,
                                   A offset_y, const Level& level) {
  const A step_x = box ? reference[2] * A(level.width) * half_step : A(1);
  const A step_y = box ? reference[3] * A(level.height) * half_step : A(1);
  return {reference[0] * A(level.width) - A(0.5) + offset_x * step_x,
          reference[1] * A(level.height) - A(0.5) + offset_y * step_y, step_x, step_y};
}

// Corners are numbered left top, right top, left bottom, right bottom.
template <class A>
struct Sample {
  int32_t first;    // row of the left top corner in value, even where that corner does not exist
  uint32_t exists;  // a bit per corner; zero for a sample that contributes nothing
  A right, bottom;  // weights of the right and of the bottom corners
  A attention;
};

// Comparisons are false for NaN. A sample on the border of the guard has no gradient, as in the
// original kernel.
template <class A>
VITADAPTER_HD Sample<A> locate(A x, A y, A attention, const Level& level) {
  if (!(x > -1 && y > -1 && x < A(level.width) && y < A(level.height))) return {};
  int32_t column = int32_t(x), row = int32_t(y);
  column -= x < A(column);
  row -= y < A(row);
  const uint32_t across = uint32_t(column >= 0) | uint32_t(column + 1 < level.width) << 1;
  const uint32_t exists = (row >= 0 ? across : 0) | (row + 1 < level.height ? across << 2 : 0);
  return {level.start + row * level.width + column, exists, x - A(column), y - A(row), attention};
}

// Zero where there is no corner.
template <class A>
VITADAPTER_HD void bilinear_weights(const Sample<A>& sample, A (&weights)[4]) {
  const A right = sample.right, bottom = sample.bottom, left = 1 - right, top = 1 - bottom;
  weights[0] = sample.exists & 1 ? left * top : A(0);
  weights[1] = sample.exists & 2 ? right * top : A(0);
  weights[2] = sample.exists & 4 ? left * bottom : A(0);
  weights[3] = sample.exists & 8 ? right * bottom : A(0);
}

template <class A>
struct SampleGrad {
  A x, y;  // per pixel
  A attention;
};

// From the dot products of the corners' rows and grad_output, zero where there is no corner. Linear
// in them, so that it may be applied to parts of the channels and summed. A row that weighs nothing
// may hold NaN: it counts for the derivative by the place alone.
template <class A>
VITADAPTER_HD SampleGrad<A> differentiate(const Sample<A>& sample, const A (&dot)[4]) {
  A weights[4];
  bilinear_weights(sample, weights);
  A sum = 0;
  for (int c = 0; c < 4; ++c) sum += weights[c] == 0 ? A(0) : weights[c] * dot[c];
  if (sample.attention == 0) return {0, 0, sum};
  const A right = sample.right, bottom = sample.bottom, left = 1 - right, top = 1 - bottom;
  return {sample.attention * ((dot[1] - dot[0]) * top + (dot[3] - dot[2]) * bottom),
          sample.attention * ((dot[2] - dot[0]) * left + (dot[3] - dot[1]) * right), sum};
}

}  // namespace
}  // namespace vitadapter_d2
