// A call, by value, and how kernels read and write its tensors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda_samples.h"
#include "ms_deform_attn.h"

namespace vitadapter_d2 {
namespace {

constexpr int kThreads = 128;
constexpr int kForwardBlocks = 8;  // per multiprocessor: leaves 64 registers for rows to come
constexpr int kMaxLevels = 64;
constexpr uint32_t kWarp = 0xffffffff;

// A call, by value: nothing is copied to the device beforehand.
struct CudaCall {
  Problem problem;       // its `shapes` is a host pointer, not to be used
  uint32_t blocks;       // per head of an image
  void* grad_buffer;     // as value: sums in the compute type, or in int64 if they are fixed-point
  const double* scale;   // of a fixed-point buffer
  void* grad_pixel;      // as locations, in the compute type, or null
  void* grad_attention;  // as weights, in the compute type: space for L * P unknown at compile time
  Level levels[kMaxLevels];
};

template <class T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

// ---- reading and writing ----

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T narrow(Compute<T> x) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(x);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(x);
  else
    return x;
}

template <class A>
__device__ __forceinline__ A read(const Input& from, int64_t i) {
  if constexpr (std::is_same_v<A, double>) {
    return static_cast<const double*>(from.data)[i];
  } else {
    switch (from.dtype) {
      case DType::kBFloat16:
        return widen(static_cast<const __nv_bfloat16*>(from.data)[i]);
      case DType::kFloat16:
        return widen(static_cast<const __half*>(from.data)[i]);
      default:
        return static_cast<const float*>(from.data)[i];
    }
  }
}

// Numbers 2 * i and 2 * i + 1.
template <class A>
__device__ __forceinline__ void read_pair(const Input& from, int64_t i, A& x, A& y) {
  const bool is_half = from.dtype == DType::kBFloat16 || from.dtype == DType::kFloat16;
  if (is_half) {
    x = read<A>(from, 2 * i), y = read<A>(from, 2 * i + 1);
  } else {
    const A* const data = static_cast<const A*>(from.data);
    x = data[2 * i], y = data[2 * i + 1];
  }
}

template <class A>
__device__ __forceinline__ void write(const Output& to, int64_t i, A x) {
  if constexpr (std::is_same_v<A, double>) {
    static_cast<double*>(to.data)[i] = x;
  } else {
    switch (to.dtype) {
      case DType::kBFloat16:
        static_cast<__nv_bfloat16*>(to.data)[i] = narrow<__nv_bfloat16>(x);
        return;
      case DType::kFloat16:
        static_cast<__half*>(to.data)[i] = narrow<__half>(x);
        return;
      default:
        static_cast<float*>(to.data)[i] = x;
    }
  }
}

// A lane's channels of a row: 16 bytes, kept as they are until they are needed, or a single number.
template <class T, int kWidth>
struct Pack {
  static_assert(kWidth == 1 || kWidth * sizeof(T) == 16);
  using Bits = std::conditional_t<kWidth == 1, T, uint4>;
  Bits bits;
};

template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> read_pack(const T* from) {
  return {__ldg(reinterpret_cast<const typename Pack<T, kWidth>::Bits*>(from))};
}

// Zero unless it is wanted. In assembly, or the compiler would make branches of it and wait for
// each row before it asks for the next.
template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> read_pack_if(bool wanted, const T* from) {
  Pack<T, kWidth> pack{};
#ifdef __CUDA_ARCH__
  if constexpr (kWidth > 1) {
    asm volatile(
        "{ .reg .pred p; setp.ne.s32 p, %5, 0; @p ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4]; }"
        : "+r"(pack.bits.x), "+r"(pack.bits.y), "+r"(pack.bits.z), "+r"(pack.bits.w)
        : "l"(from), "r"(int(wanted)));
    return pack;
  }
#endif
  if (wanted) pack = read_pack<T, kWidth>(from);
  return pack;
}

// In 64 bits from 32, which is one instruction if one says so.
template <class T>
__device__ __forceinline__ T* row_at(T* base, int row, int row_bytes) {
#ifdef __CUDA_ARCH__
  T* at;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(at) : "r"(row), "r"(row_bytes), "l"(base));
  return at;
#else
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(base) + int64_t(row) * row_bytes);
#endif
}

template <class T, int kWidth>
__device__ __forceinline__ void write_pack(T* to, const Pack<T, kWidth>& pack) {
  *reinterpret_cast<typename Pack<T, kWidth>::Bits*>(to) = pack.bits;
}

template <class T, int kWidth>
__device__ __forceinline__ void unpack(const Pack<T, kWidth>& pack, Compute<T> (&x)[kWidth]) {
  if constexpr (kWidth == 1) {
    x[0] = widen(pack.bits);
  } else {
    const uint32_t words[4] = {pack.bits.x, pack.bits.y, pack.bits.z, pack.bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        x[i] = __uint_as_float(words[i]);
      } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        x[2 * i] = __uint_as_float(words[i] << 16);
        x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000);
      } else {
        const float2 pair = __half22float2(reinterpret_cast<const __half2&>(words[i]));
        x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
      }
    }
  }
}

template <class T, int kWidth>
__device__ __forceinline__ Pack<T, kWidth> pack(const Compute<T> (&x)[kWidth]) {
  if constexpr (kWidth == 1) {
    return {narrow<T>(x[0])};
  } else {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        words[i] = __float_as_uint(x[i]);
      } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
        words[i] = reinterpret_cast<const uint32_t&>(pair);
      } else {
        const __half2 pair = __floats2half2_rn(x[2 * i], x[2 * i + 1]);
        words[i] = reinterpret_cast<const uint32_t&>(pair);
      }
    }
    return {uint4{words[0], words[1], words[2], words[3]}};
  }
}

#if __CUDA_ARCH__ >= 900
constexpr bool kAddsVectors = true;
__device__ __forceinline__ void add_four(float* to, const float* x) {
  atomicAdd(reinterpret_cast<float4*>(to), make_float4(x[0], x[1], x[2], x[3]));
}
#else
constexpr bool kAddsVectors = false;
__device__ __forceinline__ void add_four(float*, const float*) {}
#endif

// Reductions on global memory are faster than on memory of any kind.
__device__ __forceinline__ void assume_global(const void* to) {
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(to));
#endif
}

template <int kWidth>
__device__ __forceinline__ void add(float* to, const float (&x)[kWidth]) {
  constexpr int kStep = kAddsVectors && kWidth % 4 == 0 ? 4 : 1;
#pragma unroll
  for (int i = 0; i < kWidth; i += kStep) {
    if constexpr (kStep == 4)
      add_four(to + i, x + i);
    else
      atomicAdd(to + i, x[i]);
  }
}

__device__ __forceinline__ void add(double* to, const double (&x)[1]) { atomicAdd(to, x[0]); }

// Integer sums do not depend on their order; two's complement makes unsigned ones right.
template <int kWidth, class A>
__device__ __forceinline__ void add_fixed(unsigned long long* to, const A (&x)[kWidth],
                                          double scale) {
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    atomicAdd(to + i, static_cast<unsigned long long>(__double2ll_rn(double(x[i]) * scale)));
  }
}

}  // namespace
}  // namespace vitadapter_d2
