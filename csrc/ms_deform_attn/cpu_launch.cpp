// The CPU ops and their registration. The schemas live in
// vitadapter_d2/ops/ms_deform_attn.py. Stable ABI only: no c10/, ATen/ or Python include.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <vector>

#include "call.h"
#include "cpu_plan.h"
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

// ---- the ops ----

Tensor run_forward(Call&& call) {
  Problem& p = call.problem;
  if (call.empty()) return torch::stable::new_zeros(call.value, {p.B, p.Q, p.M * p.D});
  Tensor output = new_result(call.value, {p.B, p.Q, p.M * p.D}, call.value.element_size());
  p.output = {output.mutable_data_ptr(), p.value.dtype};
  const Plan plan(kernels(), call);
  for_tasks(plan.tasks, plan.workers,
            [&](int64_t w, int64_t t) { plan.k.forward(plan.task(w, t)); });
  return output;
}

// One task per group: each worker has a slice of grad_value, written out and cleared after a group.
void backward_by_group(const Call& call, const Plan& plan) {
  const int64_t bytes = plan.sizes.grad;
  const Buffer grads(call.value, plan.workers * bytes);
  for_tasks(plan.tasks, plan.workers, [&](int64_t w, int64_t t) {
    Task task = plan.task(w, t);
    char* const grad = grads.data + w * bytes;
    if (t == first_task(plan.tasks, plan.workers, w)) std::fill_n(grad, bytes, 0);
    task.grad = grad;
    plan.k.backward(task);
    plan.k.unpack(plan.p, task.group, 0, plan.p.S, task.grad);
  });
}

// More threads than groups: first all but the scatter, split over queries; then the scatter, split
// over rows of each level. Every row sees its additions in the same order as above.
void backward_by_rows(const Call& call, const Plan& plan) {
  const Problem& p = plan.p;
  const Sizes& sizes = plan.sizes;
  const int64_t corners_bytes = plan.blocks() * sizes.corners;
  const Buffer corners(call.value, plan.groups * corners_bytes);
  const Buffer grads(call.value, plan.groups * sizes.grad);
  for_tasks(plan.tasks, plan.workers, [&](int64_t w, int64_t t) {
    Task task = plan.task(w, t);
    task.corners = corners.data + task.group * corners_bytes;
    plan.k.backward(task);
  });
  const int64_t parts = (plan.splits + p.L - 1) / p.L, pieces = plan.groups * p.L * parts;
  for_tasks(pieces, std::min(plan.threads, pieces), [&](int64_t w, int64_t i) {
    const int64_t group = i / parts / p.L, level = i / parts % p.L, part = i % parts;
    const int64_t rows = p.shapes[2 * level] * p.shapes[2 * level + 1];
    int64_t start = 0;
    for (int64_t l = 0; l < level; ++l) start += p.shapes[2 * l] * p.shapes[2 * l + 1];
    const int64_t begin = start + rows * part / parts, end = start + rows * (part + 1) / parts;
    char* const grad = grads.data + group * sizes.grad;
    const Task task{&p,
                    plan.table.data,
                    nullptr,
                    grad,
                    corners.data + group * corners_bytes,
                    plan.scratch.data + w * sizes.scratch,
                    group,
                    0,
                    p.Q};
    plan.k.scatter(task, level, begin, end);
    plan.k.unpack(p, group, begin, end, grad);
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
    return call.empty() ? torch::stable::new_zeros(t, size) : new_result(t, size, t.element_size());
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
  const Plan plan(kernels(), call);
  if (plan.splits == 1) {
    backward_by_group(call, plan);
  } else {
    backward_by_rows(call, plan);
  }
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
