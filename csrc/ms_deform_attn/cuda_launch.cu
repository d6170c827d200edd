// Buffers, choice of kernel and launches of the CUDA ops, and their registration. The schemas live
// in vitadapter_d2/ops. Stable ABI only. Everything runs on the current stream and nothing waits
// for the device.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "call.h"
#include "cuda_kernel.cuh"

namespace vitadapter_d2 {
namespace {

// ---- the kernel for a call ----

using Kernel = void (*)(CudaCall);

struct Choice {
  Kernel kernel;
  int lanes;             // per unit
  bool samples_unknown;  // at compile time
};

struct Forward {
  template <class T, int kWidth, int kLanes, int kSamples>
  static constexpr Kernel kernel = forward_kernel<T, kWidth, kLanes, kSamples>;
};

template <bool kFixed>
struct Backward {
  template <class T, int kWidth, int kLanes, int kSamples>
  static constexpr Kernel kernel = backward_kernel<T, kWidth, kLanes, kSamples, kFixed>;
};

template <class Pass, class T, int kLanes>
Choice choose_by_samples(const Problem& p) {
  constexpr int kWidth = 16 / sizeof(T);
  switch (p.P == 4 ? p.L : 0) {
    case 1:
      return {Pass::template kernel<T, kWidth, kLanes, 4>, kLanes, false};
    case 3:
      return {Pass::template kernel<T, kWidth, kLanes, 12>, kLanes, false};
    case 4:
      return {Pass::template kernel<T, kWidth, kLanes, 16>, kLanes, false};
    default:
      return {Pass::template kernel<T, kWidth, kLanes, 0>, kLanes, true};
  }
}

template <class Pass, class T>
Choice choose_any(const Problem&) {
  return {Pass::template kernel<T, 1, 32, 0>, 32, true};
}

bool is_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

template <class Pass, class T>
Choice choose_by_width(const Problem& p) {
  if (is_aligned(p.value.data) && is_aligned(p.grad_output.data)) {
    switch (p.D) {
      case 32:
        return choose_by_samples<Pass, T, 2 * sizeof(T)>(p);
      case 64:
        return choose_by_samples<Pass, T, 4 * sizeof(T)>(p);
      case 128:
        return choose_by_samples<Pass, T, 8 * sizeof(T)>(p);
    }
  }
  return choose_any<Pass, T>(p);
}

Choice choose_forward(const Problem& p) {
  switch (p.value.dtype) {
    case DType::kFloat64:
      return choose_any<Forward, double>(p);
    case DType::kBFloat16:
      return choose_by_width<Forward, __nv_bfloat16>(p);
    case DType::kFloat16:
      return choose_by_width<Forward, __half>(p);
    default:
      return choose_by_width<Forward, float>(p);
  }
}

Choice choose_backward(const Problem& p, bool fixed) {
  switch (p.value.dtype) {
    case DType::kFloat64:
      return fixed ? choose_any<Backward<true>, double>(p) : choose_any<Backward<false>, double>(p);
    case DType::kBFloat16:
      return fixed ? choose_any<Backward<true>, __nv_bfloat16>(p)
                   : choose_by_width<Backward<false>, __nv_bfloat16>(p);
    case DType::kFloat16:
      return fixed ? choose_any<Backward<true>, __half>(p)
                   : choose_by_width<Backward<false>, __half>(p);
    default:
      return fixed ? choose_any<Backward<true>, float>(p)
                   : choose_by_width<Backward<false>, float>(p);
  }
}

// ---- launches ----

constexpr int64_t kIntMax = std::numeric_limits<int32_t>::max();

// Kernels count rows of value, bytes of a row and samples of a query in int32, and multiply these
// in int64.
CudaCall checked_cuda_call(const Problem& p) {
  STD_TORCH_CHECK(p.L <= kMaxLevels, "ms_deform_attn: spatial_shapes: expected at most ",
                  kMaxLevels, " levels on CUDA, got ", p.L);
  STD_TORCH_CHECK(p.S < kIntMax / 2 && p.D < kIntMax / (8 * p.M) && p.P < kIntMax / (2 * p.L),
                  "ms_deform_attn: value: expected fewer than 2^30 rows per image, 2^28 "
                  "channels per row and 2^30 samples per query on CUDA");
  CudaCall call{};
  call.problem = p;
  call.problem.shapes = nullptr;
  int64_t start = 0;
  for (int64_t l = 0; l < p.L; ++l) {
    const int64_t height = p.shapes[2 * l], width = p.shapes[2 * l + 1];
    call.levels[l] = {int32_t(height), int32_t(width), int32_t(start)};
    start += height * width;
  }
  return call;
}

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void launch(Kernel kernel, const CudaCall& call, int64_t blocks, cudaStream_t stream) {
  STD_TORCH_CHECK(blocks <= kIntMax,
                  "ms_deform_attn: too many queries for one CUDA launch: ", blocks, " blocks");
  void* arguments[] = {const_cast<CudaCall*>(&call)};
  STD_CUDA_CHECK(cudaLaunchKernel(kernel, dim3(blocks), dim3(kThreads), arguments, 0, stream));
}

void launch(const Choice& choice, CudaCall& call, cudaStream_t stream) {
  const Problem& p = call.problem;
  const int64_t units = kThreads / choice.lanes;
  const int64_t blocks = (p.Q + units - 1) / units;
  call.blocks = uint32_t(blocks);
  launch(choice.kernel, call, blocks * p.B * p.M, stream);
}

// ---- the ops ----

Tensor run_forward(Call&& call) {
  const torch::stable::accelerator::DeviceGuard guard(call.value.get_device_index());
  Problem& p = call.problem;
  if (call.empty()) return torch::stable::new_zeros(call.value, {p.B, p.Q, p.M * p.D});
  Tensor output = torch::stable::new_empty(call.value, {p.B, p.Q, p.M * p.D});
  p.output = {output.mutable_data_ptr(), p.value.dtype};
  CudaCall cuda = checked_cuda_call(p);
  launch(choose_forward(p), cuda, current_stream(call.value));
  return output;
}

std::vector<int64_t> sizes_of(const Tensor& tensor) {
  std::vector<int64_t> sizes(tensor.dim());
  for (int64_t i = 0; i < tensor.dim(); ++i) sizes[i] = tensor.size(i);
  return sizes;
}

struct Gradients {
  Tensor value, reference, locations, weights;
};

// With `scale`, a double on the device, the first gradient is an int64 tensor, to be divided by it.
Gradients run_backward(Call&& call, const Tensor& grad_output_, bool needs_reference_grad,
                       const std::optional<Tensor>& scale) {
  const torch::stable::accelerator::DeviceGuard guard(call.value.get_device_index());
  Problem& p = call.problem;
  const Tensor grad_output = torch::stable::contiguous(grad_output_);
  p.grad_output = checked_input(grad_output, "grad_output", call.value, {p.B, p.Q, p.M * p.D});
  STD_TORCH_CHECK(p.grad_output.dtype == p.value.dtype,
                  "ms_deform_attn: grad_output: expected value's dtype");
  const ScalarType compute =
      p.value.dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  const Tensor buffer = torch::stable::new_zeros(call.value, sizes_of(call.value),
                                                 scale ? ScalarType::Long : compute);
  auto like = [&](const Tensor& t) {
    return call.empty() ? torch::stable::new_zeros(t, sizes_of(t))
                        : torch::stable::new_empty(t, sizes_of(t));
  };
  Gradients grads{
      buffer,
      needs_reference_grad ? like(call.reference) : torch::stable::new_empty(call.reference, {0}),
      like(call.locations), like(call.weights)};
  if (!call.empty()) {
    p.grad_locations = {grads.locations.mutable_data_ptr(), p.locations.dtype};
    p.grad_weights = {grads.weights.mutable_data_ptr(), p.weights.dtype};
    p.grad_reference = {grads.reference.mutable_data_ptr(), p.reference.dtype};
    CudaCall cuda = checked_cuda_call(p);
    const Choice choice = choose_backward(p, scale.has_value());
    const bool keeps_attention = p.reference_numbers && choice.samples_unknown;
    auto space = [&](const Tensor& t, bool needed) {
      return torch::stable::new_empty(t, needed ? sizes_of(t) : std::vector<int64_t>{0}, compute);
    };
    const Tensor grad_pixel = space(call.locations, needs_reference_grad);
    const Tensor grad_attention = space(call.weights, keeps_attention);
    cuda.grad_buffer = buffer.mutable_data_ptr();
    cuda.scale = scale ? static_cast<const double*>(scale->const_data_ptr()) : nullptr;
    cuda.grad_pixel = needs_reference_grad ? grad_pixel.mutable_data_ptr() : nullptr;
    cuda.grad_attention = keeps_attention ? grad_attention.mutable_data_ptr() : nullptr;
    const cudaStream_t stream = current_stream(call.value);
    launch(choice, cuda, stream);
    if (needs_reference_grad) {
      const bool is_double = compute == ScalarType::Double;
      launch(is_double ? reference_kernel<double> : reference_kernel<float>, cuda,
             (grads.reference.numel() + kThreads - 1) / kThreads, stream);
    }
  }
  if (!scale) grads.value = torch::stable::to(buffer, call.value.scalar_type());
  return grads;
}

Tensor forward(const Tensor& value, Shapes shapes, const Tensor& locations, const Tensor& weights) {
  return run_forward(Call(value, shapes, nullptr, locations, weights));
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& value,
                                            Shapes shapes, const Tensor& locations,
                                            const Tensor& weights, std::optional<Tensor> scale) {
  const Gradients grads =
      run_backward(Call(value, shapes, nullptr, locations, weights), grad_output, false, scale);
  return {grads.value, grads.locations, grads.weights};
}

Tensor forward_fused(const Tensor& value, Shapes shapes, const Tensor& reference,
                     const Tensor& offsets, const Tensor& logits) {
  return run_forward(Call(value, shapes, &reference, offsets, logits));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward_fused(
    const Tensor& grad_output, const Tensor& value, Shapes shapes, const Tensor& reference,
    const Tensor& offsets, const Tensor& logits, bool needs_reference_grad,
    std::optional<Tensor> scale) {
  const Gradients grads = run_backward(Call(value, shapes, &reference, offsets, logits),
                                       grad_output, needs_reference_grad, scale);
  return {grads.value, grads.reference, grads.locations, grads.weights};
}

}  // namespace
}  // namespace vitadapter_d2

// Called through ctypes by vitadapter_d2/ops/_library.py.
extern "C" __attribute__((visibility("default"))) const char* vitadapter_d2_cuda_architectures() {
  return VITADAPTER_CUDA_ARCHITECTURES;
}

STABLE_TORCH_LIBRARY_IMPL(vitadapter_d2, CUDA, m) {
  m.impl("ms_deform_attn", TORCH_BOX(&vitadapter_d2::forward));
  m.impl("ms_deform_attn_fused", TORCH_BOX(&vitadapter_d2::forward_fused));
  m.impl("_cuda_backward", TORCH_BOX(&vitadapter_d2::backward));
  m.impl("_cuda_fused_backward", TORCH_BOX(&vitadapter_d2::backward_fused));
}
