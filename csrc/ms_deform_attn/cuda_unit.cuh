// The lanes of a unit: what they exchange, and the samples that each of them prepares.
#pragma once

#include "cuda_call.cuh"

namespace vitadapter_d2 {
namespace {

template <int kLanes>
struct Unit {
  int lane;
  bool active;  // false for queries beyond the last, whose lanes only keep the others company
  int64_t b, m;
  int64_t index;  // of the query and head: (b * Q + q) * M + m
  int64_t reference;

  __device__ explicit Unit(const CudaCall& call) {
    const Problem& p = call.problem;
    const uint32_t group = blockIdx.x / call.blocks, heads = uint32_t(p.M);
    int64_t q = int64_t(blockIdx.x % call.blocks) * (kThreads / kLanes) + threadIdx.x / kLanes;
    lane = threadIdx.x % kLanes;
    active = q < p.Q;
    q = active ? q : p.Q - 1;
    b = group / heads, m = group % heads;
    index = (b * p.Q + q) * p.M + m;
    reference = ((p.reference_shared ? 0 : b * p.Q) + q) * p.L;
  }
};

template <int kLanes, class A>
__device__ __forceinline__ A from_lane(A x, int lane) {
  return __shfl_sync(kWarp, x, lane, kLanes);
}

template <int kLanes, class A>
__device__ __forceinline__ A sum_lanes(A x) {
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) x += __shfl_xor_sync(kWarp, x, step, kLanes);
  return x;
}

template <int kLanes, class A>
__device__ __forceinline__ A highest_of_lanes(A x) {
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) {
    const A other = __shfl_xor_sync(kWarp, x, step, kLanes);
    x = other > x ? other : x;
  }
  return x;
}

// Sums four values over the lanes; lane i gets the sum of x[i % 4].
template <int kLanes, class A>
__device__ __forceinline__ A sum_four(const A (&x)[4], int lane) {
  const bool odd = lane & 1, upper = lane & 2;
  A low = odd ? x[1] : x[0], high = odd ? x[3] : x[2];
  low += __shfl_xor_sync(kWarp, odd ? x[0] : x[1], 1, kLanes);
  high += __shfl_xor_sync(kWarp, odd ? x[2] : x[3], 1, kLanes);
  A sum = (upper ? high : low) + __shfl_xor_sync(kWarp, upper ? low : high, 2, kLanes);
#pragma unroll
  for (int step = 4; step < kLanes; step *= 2) sum += __shfl_xor_sync(kWarp, sum, step, kLanes);
  return sum;
}

template <int kLanes, class A>
__device__ __forceinline__ Sample<A> sample_of_lane(const Sample<A>& own, int lane) {
  return {from_lane<kLanes>(own.first, lane), from_lane<kLanes>(own.exists, lane),
          from_lane<kLanes>(own.right, lane), from_lane<kLanes>(own.bottom, lane),
          from_lane<kLanes>(own.attention, lane)};
}

// ---- samples ----

// kSamples is L * P where it is known at compile time, with P = 4; else 0.
template <int kSamples>
__device__ __forceinline__ int count_samples(const Problem& p) {
  return kSamples ? kSamples : int(p.L * p.P);
}

template <int kSamples>
__device__ __forceinline__ int level_of(const Problem& p, int sample) {
  return kSamples ? sample / 4 : sample / int(p.P);
}

// Attention of a lane's samples: as given, or the softmax of logits. Kept if L * P is known at
// compile time, else computed again from what was given. `round` counts a lane's samples.
template <class A, int kLanes, int kSamples>
struct Attention {
  static constexpr int kRounds = kSamples ? (kSamples + kLanes - 1) / kLanes : 1;
  A own[kRounds];
  A highest = 0, scale = 1;
  bool is_softmax;

  __device__ Attention(const Problem& p, const Unit<kLanes>& unit)
      : is_softmax(p.reference_numbers != 0) {
    const int samples = count_samples<kSamples>(p), lane = unit.lane;
    const int rounds = kSamples ? kRounds : (samples + kLanes - 1) / kLanes;
    const int64_t start = unit.index * samples;
    if constexpr (kSamples) {
#pragma unroll
      for (int r = 0; r < kRounds; ++r) {
        const int s = r * kLanes + lane;
        own[r] = read<A>(p.weights, start + (s < samples ? s : 0));
      }
    }
    if (!is_softmax) return;
    highest = given(p, 0, start + (lane < samples ? lane : 0));
#pragma unroll
    for (int r = 1; r < rounds; ++r) {
      const int s = r * kLanes + lane;
      const A logit = given(p, r, start + (s < samples ? s : 0));
      highest = logit > highest ? logit : highest;
    }
    highest = highest_of_lanes<kLanes>(highest);
    A sum = 0;
#pragma unroll
    for (int r = 0; r < rounds; ++r) {
      const int s = r * kLanes + lane;
      const A power = exp(given(p, r, start + (s < samples ? s : 0)) - highest);
      sum += s < samples ? power : A(0);
      if constexpr (kSamples) own[r] = power;
    }
    scale = 1 / sum_lanes<kLanes>(sum);
  }

  __device__ __forceinline__ A given(const Problem& p, int round, int64_t i) const {
    if constexpr (kSamples)
      return own[round];
    else
      return read<A>(p.weights, i);
  }

  __device__ __forceinline__ A operator()(const Problem& p, int round, int64_t i) const {
    const A x = given(p, round, i);
    if (!is_softmax) return x;
    return (kSamples ? x : exp(x - highest)) * scale;
  }
};

template <class A, int kSamples>
__device__ __forceinline__ Place<A> place(const Problem& p, int64_t i, int64_t reference,
                                          const Level& level) {
  A x, y;
  read_pair(p.locations, i, x, y);
  if (!p.reference_numbers) return place_plain(x, y, level);
  const bool box = p.reference_numbers == 4;
  A numbers[4] = {};
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    if (n < 2 || box) numbers[n] = read<A>(p.reference, reference * p.reference_numbers + n);
  }
  return place_fused(numbers, box, A(0.5) / A(kSamples ? 4 : p.P), x, y, level);
}

// One of a lane's own samples. Nothing for a lane that has none.
template <class A>
struct Own {
  bool exists;
  A attention;  // that of the sample is zero where it is outside
  Place<A> place;
  Sample<A> sample;
};

template <int kSamples, class A, int kLanes>
__device__ __forceinline__ Own<A> own_sample(const CudaCall& call, const Unit<kLanes>& unit,
                                             const Attention<A, kLanes, kSamples>& attention,
                                             int first) {
  const Problem& p = call.problem;
  const int samples = count_samples<kSamples>(p), s = first + unit.lane;
  if (!unit.active || s >= samples) return {};
  const int l = level_of<kSamples>(p, s);
  const int64_t i = unit.index * samples + s;
  const Place<A> at = place<A, kSamples>(p, i, unit.reference + l, call.levels[l]);
  const A weight = attention(p, first / kLanes, i);
  return {true, weight, at, locate(at.x, at.y, weight, call.levels[l])};
}

}  // namespace
}  // namespace vitadapter_d2
