// The CUDA kernels. A unit is one query of one head of one image; kLanes neighbouring lanes of a
// warp share it, each with kWidth channels (16 bytes of value), and each with every kLanes-th
// sample's coordinates and weights, which travel by shuffles. A block's units are neighbouring
// queries of one head of one image. No lane leaves before the last shuffle.
#pragma once

#include "cuda_unit.cuh"

namespace vitadapter_d2 {
namespace {

__device__ __forceinline__ int corner_row(int first, int corner, int width) {
  return first + (corner & 1) + (corner >> 1) * width;
}

// Adds the samples from `first` on that a round of lanes has prepared to this lane's channels.
template <class T, int kWidth, int kLanes, int kSamples, class A>
__device__ __forceinline__ void gather(const CudaCall& call, const Sample<A>& own, int first,
                                       const T* head, bool has_channel, A (&sum)[kWidth]) {
  const Problem& p = call.problem;
  const int samples = count_samples<kSamples>(p);
  const int row_bytes = int(p.M) * int(p.D) * int(sizeof(T));
  A own_weights[4];
  bilinear_weights(own, own_weights);
#pragma unroll
  for (int c = 0; c < 4; ++c) own_weights[c] *= own.attention;
#pragma unroll kSamples ? kLanes : 4
  for (int j = 0; j < kLanes; ++j) {
    if (first + j >= samples) break;
    const int corner = from_lane<kLanes>(own.first, j);
    const int width = call.levels[level_of<kSamples>(p, first + j)].width;
    A weights[4];
    Pack<T, kWidth> rows[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      weights[c] = from_lane<kLanes>(own_weights[c], j);
      rows[c] = read_pack_if<T, kWidth>(weights[c] != 0 && has_channel,
                                        row_at(head, corner_row(corner, c, width), row_bytes));
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      A row[kWidth];
      unpack(rows[c], row);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[i] += weights[c] * row[i];
    }
  }
}

template <class T, int kWidth, int kLanes, int kSamples>
__global__ void __launch_bounds__(kThreads, kForwardBlocks)
    forward_kernel(const __grid_constant__ CudaCall call) {
  using A = Compute<T>;
  const Problem& p = call.problem;
  const Unit<kLanes> unit(call);
  const Attention<A, kLanes, kSamples> attention(p, unit);
  const int samples = count_samples<kSamples>(p), D = int(p.D);
  // One round where lanes and channels match, else as many as there are channels.
  for (int channel = unit.lane * kWidth; kWidth == 1 || channel < kWidth * kLanes;
       channel += kWidth * kLanes) {
    if (kWidth == 1 && channel - unit.lane >= D) break;
    const bool has_channel = unit.active && (kWidth > 1 || channel < D);
    const T* const head =
        static_cast<const T*>(p.value.data) + (unit.b * p.S * p.M + unit.m) * D + channel;
    A sum[kWidth] = {};
#pragma unroll
    for (int first = 0; first < samples; first += kLanes) {
      const Own<A> own = own_sample<kSamples>(call, unit, attention, first);
      gather<T, kWidth, kLanes, kSamples>(call, own.sample, first, head, has_channel, sum);
    }
    if (!has_channel) continue;
    write_pack(static_cast<T*>(p.output.data) + unit.index * D + channel, pack<T>(sum));
  }
}

// Scatters a sample's gradient for value; returns this lane's part of the sample's own gradients.
template <class T, int kWidth, int kLanes, bool kFixed, class A>
__device__ __forceinline__ SampleGrad<A> visit(const CudaCall& call, const Unit<kLanes>& unit,
                                               const Sample<A>& sample, int width,
                                               const A (&wide_grad)[kWidth]) {
  const Problem& p = call.problem;
  using Sum = std::conditional_t<kFixed, unsigned long long, A>;
  const int D = int(p.D), row_size = int(p.M) * D;
  const int64_t head = (unit.b * p.S * p.M + unit.m) * D;
  const T* const value = static_cast<const T*>(p.value.data) + head;
  Sum* const sums = static_cast<Sum*>(call.grad_buffer) + head;
  const T* const grad_output = static_cast<const T*>(p.grad_output.data) + unit.index * D;
  A bilinear[4], dot[4] = {};
  bilinear_weights(sample, bilinear);
  for (int channel = unit.lane * kWidth; channel < (kWidth == 1 ? D : kWidth * kLanes);
       channel += kWidth * kLanes) {
    A grad[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      grad[i] = kWidth == 1 ? widen(grad_output[channel]) : wide_grad[i];
    }
    Pack<T, kWidth> rows[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int row = corner_row(sample.first, c, width);
      rows[c] = read_pack_if<T, kWidth>(sample.exists >> c & 1,
                                        row_at(value + channel, row, row_size * int(sizeof(T))));
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      A row[kWidth];
      unpack(rows[c], row);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) dot[c] += grad[i] * row[i];
      const A weight = bilinear[c] * sample.attention;
      if (weight == 0) continue;
      const int place = corner_row(sample.first, c, width);
      Sum* const to = row_at(sums + channel, place, row_size * int(sizeof(Sum)));
#pragma unroll
      for (int i = 0; i < kWidth; ++i) row[i] = weight * grad[i];
      assume_global(to);
      if constexpr (kFixed)
        add_fixed(to, row, *call.scale);
      else
        add(to, row);
    }
  }
  return differentiate(sample, dot);
}

// Visits the samples that a round of lanes has prepared; returns the gradients of this lane's own.
template <class T, int kWidth, int kLanes, int kSamples, bool kFixed, class A>
__device__ __forceinline__ SampleGrad<A> visit_round(const CudaCall& call, const Unit<kLanes>& unit,
                                                     const Sample<A>& own, int first,
                                                     const A (&grad)[kWidth]) {
  const Problem& p = call.problem;
  const int samples = count_samples<kSamples>(p);
  SampleGrad<A> own_sum{};
#pragma unroll
  for (int four = 0; four < kLanes; four += 4) {
    if (first + four >= samples) break;
    A x[4], y[4], attention[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int l = level_of<kSamples>(p, min(first + four + j, samples - 1));
      const Sample<A> sample = sample_of_lane<kLanes>(own, four + j);
      const SampleGrad<A> part =
          visit<T, kWidth, kLanes, kFixed>(call, unit, sample, call.levels[l].width, grad);
      x[j] = part.x, y[j] = part.y, attention[j] = part.attention;
    }
    const SampleGrad<A> sum{sum_four<kLanes>(x, unit.lane), sum_four<kLanes>(y, unit.lane),
                            sum_four<kLanes>(attention, unit.lane)};
    if ((unit.lane & ~3) == four) own_sum = sum;
  }
  return own_sum;
}

// `i` counts samples. The gradient of a logit has to wait for those of the others.
template <bool kKeeps, class A>
__device__ __forceinline__ void write_gradients(const CudaCall& call, int64_t i, const Place<A>& at,
                                                const SampleGrad<A>& grad) {
  const Problem& p = call.problem;
  write(p.grad_locations, 2 * i, grad.x * at.step_x);
  write(p.grad_locations, 2 * i + 1, grad.y * at.step_y);
  if (A* const grad_pixel = static_cast<A*>(call.grad_pixel)) {
    grad_pixel[2 * i] = grad.x, grad_pixel[2 * i + 1] = grad.y;
  }
  if (!p.reference_numbers) write(p.grad_weights, i, grad.attention);
  if (p.reference_numbers && !kKeeps) static_cast<A*>(call.grad_attention)[i] = grad.attention;
}

template <class T, int kWidth, int kLanes, int kSamples, bool kFixed>
__global__ void __launch_bounds__(kThreads) backward_kernel(const __grid_constant__ CudaCall call) {
  using A = Compute<T>;
  const Problem& p = call.problem;
  const Unit<kLanes> unit(call);
  const Attention<A, kLanes, kSamples> attention(p, unit);
  const int samples = count_samples<kSamples>(p);
  const int64_t start = unit.index * samples;
  A grad[kWidth] = {};
  if constexpr (kWidth > 1) {
    const T* const grad_output = static_cast<const T*>(p.grad_output.data) + unit.index * p.D;
    unpack(read_pack<T, kWidth>(grad_output + unit.lane * kWidth), grad);
  }
  A kept[Attention<A, kLanes, kSamples>::kRounds];  // gradients of attention, if their number is
                                                    // known
  A inner = 0;                                      // product of attention and its gradient
#pragma unroll
  for (int first = 0; first < samples; first += kLanes) {
    const Own<A> own = own_sample<kSamples>(call, unit, attention, first);
    const SampleGrad<A> sum =
        visit_round<T, kWidth, kLanes, kSamples, kFixed>(call, unit, own.sample, first, grad);
    inner += own.attention * sum.attention;
    if constexpr (kSamples) kept[first / kLanes] = sum.attention;
    if (own.exists) {
      write_gradients<(kSamples > 0)>(call, start + first + unit.lane, own.place, sum);
    }
  }
  if (!p.reference_numbers) return;
  inner = sum_lanes<kLanes>(inner);
#pragma unroll
  for (int first = 0; first < samples; first += kLanes) {
    const int64_t i = start + first + unit.lane;
    if (!unit.active || first + unit.lane >= samples) continue;
    A grad_attention;
    if constexpr (kSamples)
      grad_attention = kept[first / kLanes];
    else
      grad_attention = static_cast<const A*>(call.grad_attention)[i];
    write(p.grad_weights, i, attention(p, first / kLanes, i) * (grad_attention - inner));
  }
}

// grad_reference from the pixel gradients: a thread per number, sums in a fixed order.
template <class A>
__global__ void __launch_bounds__(kThreads)
    reference_kernel(const __grid_constant__ CudaCall call) {
  const Problem& p = call.problem;
  const int64_t i = blockIdx.x * int64_t(kThreads) + threadIdx.x;
  const int64_t images = p.reference_shared ? p.B : 1;
  const int64_t numbers = p.reference_numbers, per_image = p.Q * p.L * numbers;
  if (i >= per_image * (p.reference_shared ? 1 : p.B)) return;
  const int64_t n = i % numbers, l = i / numbers % p.L, q = i / (numbers * p.L) % p.Q;
  const int64_t image = i / per_image;
  A sum = 0;
  for (int64_t b = image; b < image + images; ++b) {
    for (int64_t m = 0; m < p.M; ++m) {
      const int64_t start = (((b * p.Q + q) * p.M + m) * p.L + l) * p.P;
      for (int64_t at = start; at < start + p.P; ++at) {
        const A grad = static_cast<const A*>(call.grad_pixel)[2 * at + n % 2];
        sum += n < 2 ? grad : grad * read<A>(p.locations, 2 * at + n % 2);
      }
    }
  }
  const A side = A(n % 2 ? call.levels[l].height : call.levels[l].width);
  write(p.grad_reference, i, sum * side * (n < 2 ? A(1) : A(0.5) / A(p.P)));
}

}  // namespace
}  // namespace vitadapter_d2
