// The arguments of an op, checked before anything is read. Every message names the argument, what
// was expected and what was given.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <vector>

#include "ms_deform_attn.h"

namespace vitadapter_d2 {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shapes = torch::headeronly::HeaderOnlyArrayRef<int64_t>;

DType checked_dtype(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      STD_TORCH_CHECK(false, "ms_deform_attn: ", name,
                      ": expected float64, float32, float16 or bfloat16, got scalar type ",
                      int(tensor.scalar_type()));
  }
}

// Checks dtype, device and sizes of a tensor that goes with `value` and describes it to the
// kernels.
Input checked_input(const Tensor& tensor, const char* name, const Tensor& value,
                    std::vector<int64_t> expected) {
  const DType dtype = checked_dtype(tensor, name);
  const bool is_double = value.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK((dtype == DType::kFloat64) == is_double, "ms_deform_attn: ", name,
                  ": expected float64 if and only if value is float64");
  STD_TORCH_CHECK(tensor.device() == value.device(), "ms_deform_attn: ", name,
                  ": expected value's device");
  STD_TORCH_CHECK(tensor.dim() == int64_t(expected.size()), "ms_deform_attn: ", name,
                  ": expected rank ", expected.size(), ", got ", tensor.dim());
  for (size_t i = 0; i < expected.size(); ++i) {
    STD_TORCH_CHECK(tensor.size(i) == expected[i], "ms_deform_attn: ", name, ": expected size ",
                    expected[i], " in dimension ", i, ", got ", tensor.size(i));
  }
  return {tensor.const_data_ptr(), dtype};
}

// The tensors of a call, contiguous, and the problem they describe. `reference` is null for the
// plain op.
struct Call {
  Tensor value, locations, weights, reference;
  Problem problem{};

  Call(const Tensor& value_, Shapes shapes, const Tensor* reference_, const Tensor& locations_,
       const Tensor& weights_)
      : value(torch::stable::contiguous(value_)),
        locations(torch::stable::contiguous(locations_)),
        weights(torch::stable::contiguous(weights_)),
        reference(reference_ ? torch::stable::contiguous(*reference_) : value) {
    Problem& p = problem;
    STD_TORCH_CHECK(value.dim() == 4, "ms_deform_attn: value: expected rank 4, got ", value.dim());
    STD_TORCH_CHECK(weights.dim() == 5,
                    "ms_deform_attn: ", reference_ ? "logits" : "attention_weights",
                    ": expected rank 5, got ", weights.dim());
    p.B = value.size(0), p.S = value.size(1), p.M = value.size(2), p.D = value.size(3);
    p.Q = weights.size(1), p.L = int64_t(shapes.size()) / 2, p.P = weights.size(4);
    check_shapes(shapes);
    p.value = checked_input(value, "value", value, {p.B, p.S, p.M, p.D});
    p.weights = checked_input(weights, reference_ ? "logits" : "attention_weights", value,
                              {p.B, p.Q, p.M, p.L, p.P});
    p.locations = checked_input(locations, reference_ ? "offsets" : "sampling_locations", value,
                                {p.B, p.Q, p.M, p.L, p.P, 2});
    if (reference_) check_reference();
  }

  void check_shapes(Shapes shapes) {
    STD_TORCH_CHECK(shapes.size() > 0 && shapes.size() % 2 == 0,
                    "ms_deform_attn: spatial_shapes: expected 2 sizes per level, got ",
                    shapes.size());
    int64_t total = 0;
    for (int64_t l = 0; l < problem.L; ++l) {
      STD_TORCH_CHECK(shapes[2 * l] > 0 && shapes[2 * l + 1] > 0,
                      "ms_deform_attn: spatial_shapes: expected sizes of 1 or more, got ",
                      shapes[2 * l], " x ", shapes[2 * l + 1]);
      total += shapes[2 * l] * shapes[2 * l + 1];
    }
    STD_TORCH_CHECK(total == problem.S, "ms_deform_attn: value: expected S = ", total,
                    " as in spatial_shapes, got ", problem.S);
    problem.shapes = shapes.data();
  }

  void check_reference() {
    Problem& p = problem;
    STD_TORCH_CHECK(reference.dim() == 4, "ms_deform_attn: reference_points: expected rank 4, got ",
                    reference.dim());
    p.reference_numbers = reference.size(3);
    STD_TORCH_CHECK(p.reference_numbers == 2 || p.reference_numbers == 4,
                    "ms_deform_attn: reference_points: expected 2 or 4 numbers, got ",
                    p.reference_numbers);
    p.reference_shared = reference.size(0) == 1;
    p.reference = checked_input(reference, "reference_points", value,
                                {p.reference_shared ? 1 : p.B, p.Q, p.L, p.reference_numbers});
  }

  bool empty() const {
    const Problem& p = problem;
    return p.B == 0 || p.Q == 0 || p.M == 0 || p.D == 0 || p.P == 0;
  }
};

}  // namespace
}  // namespace vitadapter_d2
