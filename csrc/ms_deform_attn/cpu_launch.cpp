// Buffers and threads of the CPU ops, and their registration. The schemas live in
// vitadapter_d2/ops/ms_deform_attn.py. Stable ABI only: no c10/, ATen/ or Python include.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "call.h"
#include "ms_deform_attn.h"

namespace vitadapter_d2 {
namespace {

// ---- the instruction set ----

int best_instruction_set() {
#ifdef VITADAPTER_X86
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return 2;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}

std::atomic<int> instruction_set{best_instruction_set()};

const CpuKernels& kernels() {
#ifdef VITADAPTER_X86
  switch (instruction_set.load(std::memory_order_relaxed)) {
    case 2:
      return kCpuAvx512;
    case 1:
      return kCpuAvx2;
  }
#endif
  return kCpuGeneric;
}

// ---- buffers and threads ----

struct Buffer {
  Tensor tensor;
  char* data;

  Buffer(const Tensor& like, int64_t bytes)
      : tensor(torch::stable::new_empty(like, {bytes + 64}, ScalarType::Byte)) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
    data = reinterpret_cast<char*>((at + 63) / 64 * 64);
  }
};

// Runs f(worker, task) for all tasks, on at most `workers` threads, each with a run of tasks.
template <class F>
void for_tasks(int64_t tasks, int64_t workers, const F& f) {
  torch::stable::parallel_for(0, workers, 1, [&](int64_t first, int64_t last) {
    for (int64_t w = first; w < last; ++w) {
      for (int64_t t = tasks * w / workers; t < tasks * (w + 1) / workers; ++t) f(w, t);
    }
  });
}

int64_t count_workers(int64_t tasks) {
  return std::clamp<int64_t>(torch::stable::get_num_threads(), 1, std::max<int64_t>(tasks, 1));
}

// What forward and backward share. The queries of each group are split into `splits` tasks; the
// slices of value are packed beforehand if tasks share them, else by the worker that needs them.
struct Plan {
  const CpuKernels& k = kernels();
  const Problem& p;
  Sizes sizes;
  int64_t groups, splits, tasks, workers;
  Buffer table, scratch, packed;

  Plan(const Call& call, int64_t splits_)
      : p(call.problem),
        sizes(checked_sizes(k, p)),
        groups(p.B * p.M),
        splits(splits_),
        tasks(groups * splits),
        workers(count_workers(tasks)),
        table(call.value, sizes.table),
        scratch(call.value, workers * sizes.scratch),
        packed(call.value, (splits > 1 ? groups : workers) * sizes.packed) {
    k.prepare(p, table.data);
    if (splits > 1) {
      for_tasks(groups, count_workers(groups),
                [&](int64_t, int64_t g) { k.pack(p, g, packed.data + g * sizes.packed); });
    }
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
    const int64_t blocks = (p.Q + sizes.block - 1) / sizes.block;
    char* const slice = packed.data + (splits > 1 ? group : worker) * sizes.packed;
    if (splits == 1) k.pack(p, group, slice);
    return {&p,
            table.data,
            slice,
            nullptr,
            scratch.data + worker * sizes.scratch,
            group,
            std::min(blocks * split / splits * sizes.block, p.Q),
            std::min(blocks * (split + 1) / splits * sizes.block, p.Q)};
  }
};

// ---- the ops ----

Tensor run_forward(Call&& call) {
  Problem& p = call.problem;
  if (call.empty()) return torch::stable::new_zeros(call.value, {p.B, p.Q, p.M * p.D});
  Tensor output = torch::stable::new_empty(call.value, {p.B, p.Q, p.M * p.D});
  p.output = {output.mutable_data_ptr(), p.value.dtype};
  // Splitting costs a pass over memory, so only if the groups alone leave threads idle.
  const int64_t groups = p.B * p.M, threads = torch::stable::get_num_threads();
  const int64_t blocks = (p.Q + kernels().sizes(p).block - 1) / kernels().sizes(p).block;
  const bool idle = threads > 1 && groups < 4 * threads && groups % threads != 0;
  const Plan plan(call, idle ? std::clamp<int64_t>(4 * threads / groups, 1, blocks) : 1);
  for_tasks(plan.tasks, plan.workers,
            [&](int64_t w, int64_t t) { plan.k.forward(plan.task(w, t)); });
  return output;
}

// Tasks per group in the backward, where each has its own grad_value slice to be summed in order.
// From the shapes alone, or results would depend on the number of threads; worth it while the work
// of a task exceeds that of clearing and summing its slice.
int64_t backward_splits(const Problem& p) {
  constexpr int64_t kTasks = 32;
  const int64_t wanted = (kTasks + p.B * p.M - 1) / (p.B * p.M);
  const int64_t worthwhile = p.Q * p.L * p.P * 4 / (16 * p.S);
  return std::max<int64_t>(1, std::min(wanted, worthwhile));
}

void accumulate(const Call& call, const Plan& plan) {
  const Problem& p = call.problem;
  const bool shared = plan.splits > 1;
  const Buffer grads(call.value, (shared ? plan.tasks : plan.workers) * plan.sizes.grad);
  for_tasks(plan.tasks, plan.workers, [&](int64_t w, int64_t t) {
    Task task = plan.task(w, t);
    char* const grad = grads.data + (shared ? t : w) * plan.sizes.grad;
    std::fill(grad, grad + plan.sizes.grad, 0);
    task.grad = grad;
    plan.k.backward(task);
    if (!shared) plan.k.unpack(p, task.group, grad, 1, 0, p.S);
  });
  if (!shared) return;
  const int64_t parts = std::min<int64_t>(8, p.S), pieces = plan.groups * parts;
  for_tasks(pieces, count_workers(pieces), [&](int64_t, int64_t i) {
    const int64_t group = i / parts, part = i % parts;
    plan.k.unpack(p, group, grads.data + group * plan.splits * plan.sizes.grad, plan.splits,
                  p.S * part / parts, p.S * (part + 1) / parts);
  });
}

struct Gradients {
  Tensor value, reference, locations, weights;
};

Gradients run_backward(Call&& call, const Tensor& grad_output_, bool needs_reference_grad) {
  Problem& p = call.problem;
  const Tensor grad_output = torch::stable::contiguous(grad_output_);
  p.grad_output = checked_input(grad_output, "grad_output", call.value, {p.B, p.Q, p.M * p.D});
  STD_TORCH_CHECK(p.grad_output.dtype == p.value.dtype,
                  "ms_deform_attn: grad_output: expected value's dtype");
  // empty_like would keep the strides of a tensor that is contiguous only because a size is one.
  auto like = [&](const Tensor& t) {
    std::vector<int64_t> size(t.dim());
    for (int64_t i = 0; i < t.dim(); ++i) size[i] = t.size(i);
    return call.empty() ? torch::stable::new_zeros(t, size) : torch::stable::new_empty(t, size);
  };
  Gradients grads{
      like(call.value),
      needs_reference_grad ? like(call.reference) : torch::stable::new_empty(call.reference, {0}),
      like(call.locations), like(call.weights)};
  if (call.empty()) return grads;
  p.grad_value = {grads.value.mutable_data_ptr(), p.value.dtype};
  p.grad_locations = {grads.locations.mutable_data_ptr(), p.locations.dtype};
  p.grad_weights = {grads.weights.mutable_data_ptr(), p.weights.dtype};

  const int64_t partials = p.B * p.M * p.Q * p.L * p.reference_numbers;
  const Buffer reference_partials(call.value, needs_reference_grad ? partials * 8 : 0);
  if (needs_reference_grad) p.reference_partials = reference_partials.data;
  const Plan plan(call, backward_splits(p));
  accumulate(call, plan);
  if (needs_reference_grad) {
    p.grad_reference = {grads.reference.mutable_data_ptr(), p.reference.dtype};
    torch::stable::parallel_for(
        0, p.Q, 64, [&](int64_t begin, int64_t end) { plan.k.reduce_reference(p, begin, end); });
  }
  return grads;
}

Tensor forward(const Tensor& value, Shapes shapes, const Tensor& locations, const Tensor& weights) {
  return run_forward(Call(value, shapes, nullptr, locations, weights));
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& value,
                                            Shapes shapes, const Tensor& locations,
                                            const Tensor& weights) {
  const Gradients grads =
      run_backward(Call(value, shapes, nullptr, locations, weights), grad_output, false);
  return {grads.value, grads.locations, grads.weights};
}

Tensor forward_fused(const Tensor& value, Shapes shapes, const Tensor& reference,
                     const Tensor& offsets, const Tensor& logits) {
  return run_forward(Call(value, shapes, &reference, offsets, logits));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_fused(
    const Tensor& grad_output, const Tensor& value, Shapes shapes, const Tensor& reference,
    const Tensor& offsets, const Tensor& logits, bool needs_reference_grad) {
  const Gradients grads = run_backward(Call(value, shapes, &reference, offsets, logits),
                                       grad_output, needs_reference_grad);
  return {grads.value, grads.reference, grads.locations, grads.weights};
}

}  // namespace
}  // namespace vitadapter_d2

// Called through ctypes by vitadapter_d2/ops/_library.py; indices into its INSTRUCTION_SETS.
extern "C" __attribute__((visibility("default"))) int vitadapter_d2_instruction_set() {
  return vitadapter_d2::instruction_set;
}

extern "C" __attribute__((visibility("default"))) int vitadapter_d2_use_instruction_set(
    int at_most) {
  vitadapter_d2::instruction_set = std::min(at_most, vitadapter_d2::best_instruction_set());
  return vitadapter_d2::instruction_set;
}

STABLE_TORCH_LIBRARY_IMPL(vitadapter_d2, CPU, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&vitadapter_d2::forward));
  m.impl("ms_deform_attn_backward", TORCH_BOX(&vitadapter_d2::backward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&vitadapter_d2::forward_fused));
  m.impl("ms_deform_attn_fused_backward", TORCH_BOX(&vitadapter_d2::backward_fused));
}
