// A block: some consecutive queries of one head, all their samples as flat arrays, so that the
// arithmetic on coordinates and weights vectorises whatever L and P are. Lanes beyond the last
// query compute harmless numbers that nobody stores: every query then takes the same instructions
// wherever it falls, and results do not depend on how the queries are split over threads.
#pragma once

#include "ms_deform_attn.h"
#include "vector.h"

namespace vitadapter_d2 {
namespace {

constexpr int64_t kBlockSamples = 192;  // a few KB per array: the block stays in L1
constexpr int64_t kPad = 16;            // lanes of the widest vector

inline int64_t round_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
inline int64_t block_queries(const Problem& p) {
  const int64_t queries = kBlockSamples / (p.L * p.P);
  return queries > 1 ? queries : 1;
}
template <int LP = 0>  // L * P, if known
inline int64_t block_samples(const Problem& p) {
  static_assert(LP == 0 || kBlockSamples % LP == 0);
  return LP ? kBlockSamples : round_up(block_queries(p) * p.L * p.P, kPad);
}

// Carves 64-byte aligned arrays off a buffer; from null it measures.
struct Carver {
  uintptr_t at;

  explicit Carver(const void* buffer) : at(reinterpret_cast<uintptr_t>(buffer)) {}

  template <class... T>
  void take(int64_t count, T*&... arrays) {
    (take_one(count, arrays), ...);
  }
  template <class T>
  void take_one(int64_t count, T*& array) {
    array = reinterpret_cast<T*>(at);
    at += round_up(count * int64_t(sizeof(T)), 64);
  }
};

// What a sample's place in the block says about its level.
template <class A>
struct Table {
  A *width, *height;
  Index<A>*columns, *rows, *start;
  uintptr_t end;

  explicit Table(const Problem& p, const void* buffer) {
    Carver carver(buffer);
    const int64_t n = block_samples(p);
    carver.take(n, width, height, columns, rows, start);
    end = carver.at;
  }

  void fill(const Problem& p) const {
    for (int64_t n = 0; n < block_samples(p); ++n) {
      const int64_t level = n / p.P % p.L;
      int64_t first = 0;
      for (int64_t l = 0; l < level; ++l) first += p.shapes[2 * l] * p.shapes[2 * l + 1];
      rows[n] = Index<A>(p.shapes[2 * level]);
      columns[n] = Index<A>(p.shapes[2 * level + 1]);
      height[n] = A(rows[n]);
      width[n] = A(columns[n]);
      start[n] = Index<A>(first);
    }
  }
};

// The corners of a block's samples: four runs of `block_samples` numbers each.
template <class A>
struct Corners {
  A* weight;     // bilinear * attention
  Index<A>* at;  // element of the corner's row in the packed slice
  uintptr_t end;

  Corners() = default;
  Corners(const Problem& p, const void* buffer) {
    Carver carver(buffer);
    carver.take(4 * block_samples(p), weight, at);
    end = carver.at;
  }
};

template <class A>
struct Block {
  A* raw;              // two numbers per sample, as in memory: locations, later their gradients
  A *x, *y;            // pixel coordinates; in the backward then the place inside the pixel cell
  A *step_x, *step_y;  // pixels per unit of offset (4 numbers only)
  A *offset_x, *offset_y;
  A *attention, *peak;  // peak: the highest logit of the sample's query
  A* inside_attention;  // 0 where the sample is outside
  A *grad_x, *grad_y, *grad_attention;
  A* bilinear;  // four runs, as in Corners; 0 where there is no corner
  A* dot;       // four per sample: <corner, grad_output>
  A* reference;
  A* lines;  // one row per query: output or grad_output
  Corners<A> corners;
  uintptr_t end;

  Block(const Problem& p, int64_t stride, void* buffer) {
    Carver carver(buffer);
    const int64_t n = block_samples(p), queries = block_queries(p);
    const int64_t numbers = p.L * (p.reference_numbers ? p.reference_numbers : 1);
    carver.take(2 * n, raw);
    carver.take(n, x, y, step_x, step_y, offset_x, offset_y, attention, peak, inside_attention);
    carver.take(n, grad_x, grad_y, grad_attention);
    carver.take(4 * n, bilinear, dot);
    carver.take(queries * numbers, reference);
    carver.take(queries * stride, lines);
    corners = Corners<A>(p, reinterpret_cast<void*>(carver.at));
    end = corners.end;
  }
};

// `rows` runs of `count` numbers, `stride` apart in memory, to a dense array; N is count if known.
template <int N, class T, class A>
inline void gather_runs(const T* from, int64_t stride, int64_t rows, int64_t count, A* to) {
  const int64_t n = N ? N : count;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) to[r * n + i] = A(to_compute(from[r * stride + i]));
  }
}

template <int N, class T, class A>
inline void scatter_runs(const A* from, int64_t stride, int64_t rows, int64_t count, T* to) {
  const int64_t n = N ? N : count;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < n; ++i) from_compute(from[r * n + i], to[r * stride + i]);
  }
}

template <int N>
struct Constant {
  static constexpr int value = N;
};

template <class T>
struct Element {
  using Type = T;
};

// Calls f(Element<T>{}) with the type of a tensor's elements; A is the call's compute type.
template <class A, class F>
inline void with_element(DType dtype, F f) {
  if constexpr (sizeof(A) == 8) {
    f(Element<double>{});
  } else {
    switch (dtype) {
      case DType::kBFloat16:
        return f(Element<BFloat16>{});
      case DType::kFloat16:
        return f(Element<Half>{});
      default:
        return f(Element<float>{});
    }
  }
}

template <int N, class A>
void read(const Input& in, int64_t first, int64_t stride, int64_t rows, int64_t count, A* to) {
  with_element<A>(in.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    gather_runs<N>(static_cast<const T*>(in.data) + first, stride, rows, count, to);
  });
}

template <int N, class A>
void write(const Output& out, int64_t first, int64_t stride, int64_t rows, int64_t count,
           const A* from) {
  with_element<A>(out.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    scatter_runs<N>(from, stride, rows, count, static_cast<T*>(out.data) + first);
  });
}

}  // namespace
}  // namespace vitadapter_d2
