// The CPU kernels, compiled once per instruction set into the table named by VITADAPTER_KERNELS.
//
// One task is some queries of one head of one image. The head's slice of value is packed into a
// dense array, rows padded to whole vectors, with a row of zeros at the end for the corners that do
// not exist: no branches, and no NaN from a row that nobody sampled. See csrc/README.md.

#include "cpu_block.h"
#include "cpu_samples.h"
#include "ms_deform_attn.h"
#include "vector.h"

namespace vitadapter_d2 {
namespace {

// Calls f with the column and the number of vectors of each chunk of a row.
template <class Row, class F>
inline void for_chunks(int64_t stride, F f) {
  constexpr int kLanes = VectorOf<typename Row::Compute>::kLanes;
  for (int64_t column = 0; column < stride;) {
    const int64_t left = (stride - column) / kLanes;
    if (left >= 8) {
      f(column, Element<char[8]>{});
      column += 8 * kLanes;
    } else if (left >= 4) {
      f(column, Element<char[4]>{});
      column += 4 * kLanes;
    } else if (left >= 2) {
      f(column, Element<char[2]>{});
      column += 2 * kLanes;
    } else if constexpr (Row::kUnit == kLanes) {
      f(column, Element<char[1]>{});
      column += kLanes;
    }
  }
}

// lines[q] = the weighted sum of query q's corners, for NV vectors of the row.
template <class Row, int NV, int LP, class A>
void gather(const Problem& p, const typename Row::Store* packed, int64_t queries, int64_t stride,
            const Block<A>& block, A* lines) {
  constexpr int kSets = NV >= 8   ? 1
                        : NV == 4 ? 2
                                  : 4;  // enough independent sums to fill the FMA pipes
  constexpr int kLanes = VectorOf<A>::kLanes;
  const int64_t samples = LP ? LP : p.L * p.P;
  for (int64_t q = 0; q < queries; ++q) {
    Vector<A> sum[kSets][NV] = {};
    for (int64_t n = q * samples; n < (q + 1) * samples; ++n) {
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        Vector<A> row[NV];
        Row::load_row(packed + block.at[c][n], row);
        const A weight = block.weight[c][n];
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

// grad += weight * grad_output at every corner's row, and the dot products of rows and grad_output.
template <class Row, int NV, int LP, class A>
void scatter(const Problem& p, const typename Row::Store* packed, A* grad, int64_t queries,
             int64_t stride, const Block<A>& block, const A* lines, bool add_dots) {
  constexpr int kLanes = VectorOf<A>::kLanes;
  const int64_t samples = LP ? LP : p.L * p.P;
  for (int64_t q = 0; q < queries; ++q) {
    Vector<A> out[NV];
    for (int i = 0; i < NV; ++i) out[i] = load(lines + q * stride + i * kLanes);
    for (int64_t n = q * samples; n < (q + 1) * samples; ++n) {
      Vector<A> dot[4];
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        const int64_t at = block.at[c][n];
        Vector<A> row[NV];
        Row::load_row(packed + at, row);
        dot[c] = row[0] * out[0];
#pragma GCC unroll 8
        for (int i = 1; i < NV; ++i) dot[c] += row[i] * out[i];
        const A weight = block.weight[c][n];
#pragma GCC unroll 8
        for (int i = 0; i < NV; ++i) {
          A* const to = grad + at + i * kLanes;
          store(to, load(to) + out[i] * weight);
        }
      }
      A sums[4];
      sum4<A>(dot[0], dot[1], dot[2], dot[3], sums);
      for (int c = 0; c < 4; ++c) {
        A& total = block.dot[4 * n + c];
        total = add_dots ? total + sums[c] : sums[c];
      }
    }
  }
}

// ---- tasks ----

// Calls f with the row layout and the element type of value. bfloat16 rows that are no multiple of
// a pair of vectors are packed as float.
template <class F>
inline void with_layout(const Problem& p, F f) {
  switch (p.value.dtype) {
    case DType::kFloat64:
      return f(PlainRow<double>{}, Element<double>{});
    case DType::kFloat16:
      return f(PlainRow<float>{}, Element<Half>{});
    case DType::kBFloat16:
      return p.D % PairRow::kUnit == 0 ? f(PairRow{}, Element<BFloat16>{})
                                       : f(PlainRow<float>{}, Element<BFloat16>{});
    default:
      return f(PlainRow<float>{}, Element<float>{});
  }
}

// Calls f with L * P where the kernels know it at compile time, else with 0.
template <class A, class F>
inline void with_samples(const Problem& p, F f) {
  if constexpr (sizeof(A) == 4) {
    switch (p.L * p.P) {
      case 4:
        return f(Element<char[4]>{});
      case 12:
        return f(Element<char[12]>{});
      case 16:
        return f(Element<char[16]>{});
    }
  }
  f(Element<void>{});
}

template <class E>
constexpr int extent() {
  if constexpr (__is_same(typename E::Type, void)) {
    return 0;
  } else {
    return sizeof(typename E::Type);
  }
}

template <class Row>
inline int64_t row_stride(const Problem& p) {
  return round_up(p.D, Row::kUnit);
}

Sizes sizes(const Problem& p) {
  Sizes result{};
  with_layout(p, [&](auto row, auto) {
    using Row = decltype(row);
    using A = typename Row::Compute;
    const int64_t elements = (p.S + 1) * row_stride<Row>(p);
    result.elements = elements;
    result.packed = round_up(elements * int64_t(sizeof(typename Row::Store)), 64);
    result.grad = round_up(elements * int64_t(sizeof(A)), 64);
    result.table = int64_t(Table<A>(p, nullptr).end);
    result.scratch = int64_t(Block<A>(p, row_stride<Row>(p), nullptr).end);
    result.block = block_queries(p);
  });
  return result;
}

void prepare(const Problem& p, void* table) {
  with_layout(p, [&](auto row, auto) { Table<typename decltype(row)::Compute>(p, table).fill(p); });
}

void pack(const Problem& p, int64_t group, void* packed) {
  with_layout(p, [&](auto row, auto element) {
    using Row = decltype(row);
    using T = typename decltype(element)::Type;
    const int64_t stride = row_stride<Row>(p), b = group / p.M, m = group % p.M;
    const T* from = static_cast<const T*>(p.value.data) + (b * p.S * p.M + m) * p.D;
    auto* to = static_cast<typename Row::Store*>(packed);
    for (int64_t s = 0; s < p.S; ++s) {
      Row::pack(from + s * p.M * p.D, p.D, stride, to + s * stride);
    }
    memset(to + p.S * stride, 0, stride * sizeof(*to));
  });
}

void forward(const Task& task) {
  const Problem& p = *task.problem;
  with_layout(p, [&](auto row, auto element) {
    using Row = decltype(row);
    using A = typename Row::Compute;
    using T = typename decltype(element)::Type;
    const int64_t stride = row_stride<Row>(p), b = task.group / p.M, m = task.group % p.M;
    const auto* packed = static_cast<const typename Row::Store*>(task.packed);
    const Table<A> table(p, task.table);
    const Block<A> block(p, stride, task.scratch);
    with_samples<A>(p, [&](auto samples) {
      constexpr int kSamples = extent<decltype(samples)>();
      for (int64_t first = task.begin; first < task.end; first += block_queries(p)) {
        const int64_t left = task.end - first;
        const int64_t queries = left < block_queries(p) ? left : block_queries(p);
        prepare_block<false, kSamples>(task, table, first, queries, int32_t(stride), block);
        for_chunks<Row>(stride, [&](int64_t column, auto vectors) {
          gather<Row, extent<decltype(vectors)>(), kSamples>(p, packed + column, queries, stride,
                                                             block, block.lines + column);
        });
        T* to = static_cast<T*>(p.output.data) + ((b * p.Q + first) * p.M + m) * p.D;
        for (int64_t q = 0; q < queries; ++q) {
          Row::decode(block.lines + q * stride, p.D, to + q * p.M * p.D);
        }
      }
    });
  });
}

template <class Row, class T, int LP>
void backward_block(const Task& task, const Table<typename Row::Compute>& table, int64_t first,
                    int64_t queries, const Block<typename Row::Compute>& block) {
  using A = typename Row::Compute;
  const Problem& p = *task.problem;
  const int64_t stride = row_stride<Row>(p), b = task.group / p.M, m = task.group % p.M;
  const auto* packed = static_cast<const typename Row::Store*>(task.packed);
  A* const grad = static_cast<A*>(task.grad);

  prepare_block<true, LP>(task, table, first, queries, int32_t(stride), block);
  const int64_t at = (b * p.Q + first) * p.M + m;
  const T* from = static_cast<const T*>(p.grad_output.data) + at * p.D;
  for (int64_t q = 0; q < queries; ++q) {
    Row::encode(from + q * p.M * p.D, p.D, stride, block.lines + q * stride);
  }
  for_chunks<Row>(stride, [&](int64_t column, auto vectors) {
    scatter<Row, extent<decltype(vectors)>(), LP>(p, packed + column, grad + column, queries,
                                                  stride, block, block.lines + column, column > 0);
  });
  differentiate(p, block);
  if (p.reference_partials) reference_gradient(task, table, first, queries, block);
  finish_gradients<LP>(p, table, queries, block);
  const int64_t samples = p.L * p.P;
  write<2 * LP>(p.grad_locations, 2 * at * samples, 2 * samples * p.M, queries, 2 * samples,
                block.raw);
  write<LP>(p.grad_weights, at * samples, samples * p.M, queries, samples, block.grad_attention);
}

void backward(const Task& task) {
  const Problem& p = *task.problem;
  with_layout(p, [&](auto row, auto element) {
    using Row = decltype(row);
    using A = typename Row::Compute;
    using T = typename decltype(element)::Type;
    const Table<A> table(p, task.table);
    const Block<A> block(p, row_stride<Row>(p), task.scratch);
    with_samples<A>(p, [&](auto samples) {
      for (int64_t first = task.begin; first < task.end; first += block_queries(p)) {
        const int64_t left = task.end - first;
        const int64_t queries = left < block_queries(p) ? left : block_queries(p);
        backward_block<Row, T, extent<decltype(samples)>()>(task, table, first, queries, block);
      }
    });
  });
}

void unpack(const Problem& p, int64_t group, const void* grads, int64_t count, int64_t begin,
            int64_t end) {
  const int64_t slice_bytes = sizes(p).grad;
  with_layout(p, [&](auto row, auto element) {
    using Row = decltype(row);
    using A = typename Row::Compute;
    using T = typename decltype(element)::Type;
    const int64_t stride = row_stride<Row>(p), b = group / p.M, m = group % p.M;
    const int64_t slice = slice_bytes / int64_t(sizeof(A));
    A* const sums = static_cast<A*>(const_cast<void*>(grads));
    T* to = static_cast<T*>(p.grad_value.data) + (b * p.S * p.M + m) * p.D;
    for (int64_t s = begin; s < end; ++s) {
      A* const line = sums + s * stride;
      for (int64_t other = 1; other < count; ++other) {
        for (int64_t d = 0; d < stride; ++d) line[d] += line[other * slice + d];
      }
      Row::decode(line, p.D, to + s * p.M * p.D);
    }
  });
}

template <class A>
void reduce_reference_as(const Problem& p, int64_t begin, int64_t end) {
  const int64_t numbers = p.L * p.reference_numbers;
  const A* const partials = static_cast<const A*>(p.reference_partials);
  const int64_t images = p.reference_shared ? 1 : p.B, groups = p.B * p.M / images;
  for (int64_t image = 0; image < images; ++image) {
    for (int64_t i = begin * numbers; i < end * numbers; ++i) {
      A sum = 0;
      for (int64_t g = image * groups; g < (image + 1) * groups; ++g) {
        sum += partials[g * p.Q * numbers + i];
      }
      write<1>(p.grad_reference, image * p.Q * numbers + i, 1, 1, 1, &sum);
    }
  }
}

void reduce_reference(const Problem& p, int64_t begin, int64_t end) {
  if (p.value.dtype == DType::kFloat64) {
    reduce_reference_as<double>(p, begin, end);
  } else {
    reduce_reference_as<float>(p, begin, end);
  }
}

}  // namespace

extern const CpuKernels VITADAPTER_KERNELS = {sizes,  prepare,         pack, forward, backward,
                                              unpack, reduce_reference};

}  // namespace vitadapter_d2
