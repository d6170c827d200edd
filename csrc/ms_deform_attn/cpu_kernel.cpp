// The CPU kernels, compiled once per instruction set into the table named by VITADAPTER_KERNELS.
//
// One task is some queries of one head of one image. The head's slice of value is packed into a
// dense array, rows padded to whole vectors, with a row of zeros at the end for the corners that do
// not exist: no branches, and no NaN from a row that nobody sampled. See csrc/README.md.

#include "cpu_block.h"
#include "cpu_rows.h"
#include "cpu_samples.h"
#include "ms_deform_attn.h"
#include "vector.h"

namespace vitadapter_d2 {
namespace {

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
        return f(Constant<4>{});
      case 12:
        return f(Constant<12>{});
      case 16:
        return f(Constant<16>{});
    }
  }
  f(Constant<0>{});
}

template <class Row>
inline int64_t row_stride(const Problem& p) {
  return round_up(p.D, Row::kUnit);
}

// Calls f with the first query and the number of queries of each block of a task.
template <class F>
inline void for_blocks(const Task& task, F f) {
  const int64_t block = block_queries(*task.problem);
  for (int64_t first = task.begin; first < task.end; first += block) {
    f(first, task.end - first < block ? task.end - first : block);
  }
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
    result.corners = int64_t(Corners<A>(p, nullptr).end);
    result.block = block_queries(p);
  });
  return result;
}

void prepare(const Problem& p, void* table) {
  with_layout(p, [&](auto row, auto) { Table<typename decltype(row)::Compute>(p, table).fill(p); });
}

void pack(const Problem& p, int64_t group, int64_t begin, int64_t end, void* packed) {
  with_layout(p, [&](auto row, auto element) {
    using Row = decltype(row);
    using T = typename decltype(element)::Type;
    const int64_t stride = row_stride<Row>(p), b = group / p.M, m = group % p.M;
    const T* from = static_cast<const T*>(p.value.data) + (b * p.S * p.M + m) * p.D;
    auto* to = static_cast<typename Row::Store*>(packed);
    for (int64_t s = begin; s < end; ++s) {
      prefetch<0>(from + (s + kAhead) * p.M * p.D, p.D);
      Row::pack(from + s * p.M * p.D, p.D, stride, to + s * stride);
    }
    if (end == p.S) memset(to + p.S * stride, 0, stride * sizeof(*to));
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
      constexpr int kSamples = decltype(samples)::value;
      for_blocks(task, [&](int64_t first, int64_t queries) {
        prepare_block<false, kSamples>(task, table, first, queries, stride, block);
        for_chunks<Row>(stride, [&](int64_t column, auto vectors) {
          gather<Row, decltype(vectors)::value, kSamples>(p, packed + column, queries, stride,
                                                          block.corners, block.lines + column);
        });
        T* to = static_cast<T*>(p.output.data) + ((b * p.Q + first) * p.M + m) * p.D;
        for (int64_t q = 0; q < queries; ++q) {
          Row::decode(block.lines + q * stride, p.D, to + q * p.M * p.D);
        }
      });
    });
  });
}

// grad_output of some queries, as rows.
template <class Row, class T>
void read_grad_output(const Task& task, int64_t first, int64_t queries,
                      typename Row::Compute* lines) {
  const Problem& p = *task.problem;
  const int64_t stride = row_stride<Row>(p), b = task.group / p.M, m = task.group % p.M;
  const T* from = static_cast<const T*>(p.grad_output.data) + ((b * p.Q + first) * p.M + m) * p.D;
  for (int64_t q = 0; q < queries; ++q) {
    Row::encode(from + q * p.M * p.D, p.D, stride, lines + q * stride);
  }
}

template <class Row, int LP, bool kScatter>
void backward_block(const Task& task, const Table<typename Row::Compute>& table, int64_t first,
                    int64_t queries, const Block<typename Row::Compute>& block) {
  using A = typename Row::Compute;
  const Problem& p = *task.problem;
  const int64_t stride = row_stride<Row>(p), b = task.group / p.M, m = task.group % p.M;
  const auto* packed = static_cast<const typename Row::Store*>(task.packed);
  A* const grad = static_cast<A*>(task.grad);

  prepare_block<true, LP>(task, table, first, queries, stride, block);
  memset(block.dot, 0, 4 * block_samples<LP>(p) * sizeof(A));
  for_chunks<Row>(stride, [&](int64_t column, auto vectors) {
    differentiate_rows<Row, decltype(vectors)::value, LP, kScatter>(
        p, packed + column, grad + column, queries, stride, block.corners, block.lines + column,
        block.dot);
  });
  differentiate(p, block);
  if (p.reference_partials) reference_gradient(task, table, first, queries, block);
  finish_gradients<LP>(p, table, queries, block);
  const int64_t samples = p.L * p.P, at = ((b * p.Q + first) * p.M + m) * samples;
  write<2 * LP>(p.grad_locations, 2 * at, 2 * samples * p.M, queries, 2 * samples, block.raw);
  write<LP>(p.grad_weights, at, samples * p.M, queries, samples, block.grad_attention);
}

// The corners that a block of a group left for `scatter`.
template <class A>
Corners<A> saved_corners(const Task& task, int64_t first) {
  const Problem& p = *task.problem;
  const int64_t bytes = int64_t(Corners<A>(p, nullptr).end);
  return {p, static_cast<char*>(task.corners) + first / block_queries(p) * bytes};
}

void backward(const Task& task) {
  const Problem& p = *task.problem;
  with_layout(p, [&](auto row, auto element) {
    using Row = decltype(row);
    using A = typename Row::Compute;
    using T = typename decltype(element)::Type;
    const Table<A> table(p, task.table);
    Block<A> block(p, row_stride<Row>(p), task.scratch);
    with_samples<A>(p, [&](auto samples) {
      constexpr int kSamples = decltype(samples)::value;
      for_blocks(task, [&](int64_t first, int64_t queries) {
        read_grad_output<Row, T>(task, first, queries, block.lines);
        if (task.grad) {
          backward_block<Row, kSamples, true>(task, table, first, queries, block);
        } else {
          block.corners = saved_corners<A>(task, first);
          backward_block<Row, kSamples, false>(task, table, first, queries, block);
        }
      });
    });
  });
}

void scatter(const Task& task, int64_t level, int64_t begin, int64_t end) {
  const Problem& p = *task.problem;
  with_layout(p, [&](auto row, auto element) {
    using Row = decltype(row);
    using A = typename Row::Compute;
    using T = typename decltype(element)::Type;
    const int64_t stride = row_stride<Row>(p);
    const Block<A> block(p, stride, task.scratch);
    A* const grad = static_cast<A*>(task.grad);
    memset(grad + begin * stride, 0, (end - begin) * stride * sizeof(A));
    for_blocks(task, [&](int64_t first, int64_t queries) {
      read_grad_output<Row, T>(task, first, queries, block.lines);
      for_chunks<Row>(stride, [&](int64_t column, auto vectors) {
        scatter_rows<decltype(vectors)::value>(
            p, level, Index<A>(begin * stride), Index<A>((end - begin) * stride), grad + column,
            queries, stride, saved_corners<A>(task, first), block.lines + column);
      });
    });
  });
}

void unpack(const Problem& p, int64_t group, int64_t begin, int64_t end, void* grad) {
  with_layout(p, [&](auto row, auto element) {
    using Row = decltype(row);
    using A = typename Row::Compute;
    using T = typename decltype(element)::Type;
    const int64_t stride = row_stride<Row>(p), b = group / p.M, m = group % p.M;
    A* line = static_cast<A*>(grad) + begin * stride;
    T* to = static_cast<T*>(p.grad_value.data) + ((b * p.S + begin) * p.M + m) * p.D;
    for (int64_t s = begin; s < end; ++s, line += stride, to += p.M * p.D) {
      prefetch<1>(to + kAhead * p.M * p.D, p.D);
      Row::decode(line, p.D, to);
      for (int64_t d = 0; d < stride; d += VectorOf<A>::kLanes) store(line + d, Vector<A>{});
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

extern const CpuKernels VITADAPTER_KERNELS = {sizes,    prepare, pack,   forward,
                                              backward, scatter, unpack, reduce_reference};

}  // namespace vitadapter_d2
