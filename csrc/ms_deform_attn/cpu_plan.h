// How the CPU ops divide a call: buffers, tasks, threads.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "call.h"
#include "ms_deform_attn.h"

namespace vitadapter_d2 {
namespace {

// The first touch of fresh memory costs a page fault per 4 KB, which adds up to a third of a large
// backward; Linux gives 2 MB at once where it is asked to.
constexpr int64_t kHugePage = int64_t(2) << 20;

void prefer_huge_pages(void* data, int64_t bytes) {
#ifdef __linux__
  if (bytes < 2 * kHugePage) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + 4095) / 4096 * 4096;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / 4096 * 4096;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // no more than advice
#endif
}

struct Buffer {
  Tensor tensor;
  char* data;

  Buffer(const Tensor& like, int64_t bytes)
      : tensor(torch::stable::new_empty(like, {bytes + 64}, ScalarType::Byte)) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
    data = reinterpret_cast<char*>((at + 63) / 64 * 64);
    prefer_huge_pages(data, bytes);
  }
};

Tensor new_result(const Tensor& like, const std::vector<int64_t>& size, int64_t element_bytes) {
  Tensor result = torch::stable::new_empty(like, size);
  prefer_huge_pages(result.mutable_data_ptr(), result.numel() * element_bytes);
  return result;
}

int64_t first_task(int64_t tasks, int64_t workers, int64_t worker) {
  return tasks * worker / workers;
}

// Runs f(worker, task) for all tasks, on at most `workers` threads, each with a run of tasks.
template <class F>
void for_tasks(int64_t tasks, int64_t workers, const F& f) {
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t w = first; w < last; ++w) {
      const int64_t end = first_task(tasks, workers, w + 1);
      for (int64_t t = first_task(tasks, workers, w); t < end; ++t) f(w, t);
    }
  });
}

// Threads worth waking: a small call is over before they are.
int64_t count_threads(const Problem& p) {
  constexpr int64_t kElements = 1 << 17;  // sampled by a thread in some 20 microseconds
  const int64_t worth = p.B * p.Q * p.M * p.L * p.P * p.D / kElements;
  return std::clamp<int64_t>(worth, 1, torch::stable::get_num_threads());
}

// Tasks that a group's queries are split into. One if the groups alone occupy most threads:
// splitting costs a pass over memory. Results do not depend on it.
int64_t count_splits(const Problem& p, int64_t threads, int64_t block) {
  const int64_t groups = p.B * p.M, rounds = (groups + threads - 1) / threads;
  if (4 * groups >= 3 * rounds * threads) return 1;
  return std::clamp<int64_t>(4 * threads / groups, 1, (p.Q + block - 1) / block);
}

// What forward and backward share. If groups are split, the slices of value are packed beforehand,
// else by the worker that needs them.
struct Plan {
  const CpuKernels& k;
  const Problem& p;
  Sizes sizes;
  int64_t groups, threads, splits, tasks, workers;
  Buffer table, scratch, packed;

  Plan(const CpuKernels& kernels, const Call& call)
      : k(kernels),
        p(call.problem),
        sizes(checked_sizes(k, p)),
        groups(p.B * p.M),
        threads(count_threads(p)),
        splits(count_splits(p, threads, sizes.block)),
        tasks(groups * splits),
        workers(std::min(threads, tasks)),
        table(call.value, sizes.table),
        scratch(call.value, threads * sizes.scratch),
        packed(call.value, (splits > 1 ? groups : workers) * sizes.packed) {
    k.prepare(p, table.data);
    if (splits == 1) return;
    for_tasks(tasks, workers, [&](int64_t, int64_t t) {
      const int64_t group = t / splits, part = t % splits;
      k.pack(p, group, p.S * part / splits, p.S * (part + 1) / splits,
             packed.data + group * sizes.packed);
    });
  }

  static Sizes checked_sizes(const CpuKernels& k, const Problem& p) {
    const Sizes sizes = k.sizes(p);
    STD_TORCH_CHECK(
        sizes.elements < (int64_t(1) << 30),
        "ms_deform_attn: value: expected fewer than 2^30 elements per image and head, got ",
        sizes.elements);
    return sizes;
  }

  // The task's queries are whole blocks, so that a query's place in its block is always the same.
  Task task(int64_t worker, int64_t index) const {
    const int64_t group = index / splits, split = index % splits;
    char* const slice = packed.data + (splits > 1 ? group : worker) * sizes.packed;
    if (splits == 1) k.pack(p, group, 0, p.S, slice);
    return {&p,
            table.data,
            slice,
            nullptr,
            nullptr,
            scratch.data + worker * sizes.scratch,
            group,
            std::min(blocks() * split / splits * sizes.block, p.Q),
            std::min(blocks() * (split + 1) / splits * sizes.block, p.Q)};
  }

  int64_t blocks() const { return (p.Q + sizes.block - 1) / sizes.block; }
};

}  // namespace
}  // namespace vitadapter_d2
