// Runs csrc/ms_deform_attn/cuda_launch.cu on the host: included before it, with g++ as the
// compiler. A warp is 32 fibers that meet at each shuffle; that lanes meet at the same one is
// checked. Warps run one after the other, so races between them do not show. CPU tensors take the
// place of CUDA ones.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

using std::exp;
using std::min;

namespace emulation {

constexpr int kLanes = 32;
constexpr size_t kStack = 1 << 18;

struct Fiber {
  ucontext_t context;
  uint3 thread;
  int shuffles;
  char kind;
  bool done;
};

inline Fiber fibers[kLanes];
inline ucontext_t scheduler;
inline int lane;
inline uint3 block;
inline char slots[2][kLanes][8];  // two sets: a lane may write its next before others read
inline std::function<void()> body;

template <class T>
T exchange(T x, int from, char kind) {
  Fiber& fiber = fibers[lane];
  const int set = fiber.shuffles++ % 2;
  fiber.kind = kind;
  std::memcpy(slots[set][lane], &x, sizeof x);
  swapcontext(&fiber.context, &scheduler);
  std::memcpy(&x, slots[set][from], sizeof x);
  return x;
}

inline void start_fiber() {
  body();
  fibers[lane].done = true;
  swapcontext(&fibers[lane].context, &scheduler);
}

inline void run_warp(int warp, std::vector<char>& stacks) {
  for (int i = 0; i < kLanes; ++i) {
    fibers[i] = {};
    fibers[i].thread.x = warp * kLanes + i;
    getcontext(&fibers[i].context);
    fibers[i].context.uc_stack.ss_sp = stacks.data() + i * kStack;
    fibers[i].context.uc_stack.ss_size = kStack;
    makecontext(&fibers[i].context, start_fiber, 0);
  }
  while (!fibers[0].done) {
    for (lane = 0; lane < kLanes; ++lane) swapcontext(&scheduler, &fibers[lane].context);
    for (const Fiber& fiber : fibers) {
      if (fiber.shuffles != fibers[0].shuffles || fiber.kind != fibers[0].kind ||
          fiber.done != fibers[0].done) {
        throw std::runtime_error("lanes of a warp are at different shuffles");
      }
    }
  }
}

}  // namespace emulation

#define threadIdx (emulation::fibers[emulation::lane].thread)
#define blockIdx emulation::block

template <class T>
T __shfl_sync(uint32_t, T x, int from, int width) {
  return emulation::exchange(x, (emulation::lane & ~(width - 1)) + (from & (width - 1)), 'i');
}

template <class T>
T __shfl_xor_sync(uint32_t, T x, int mask, int) {
  return emulation::exchange(x, emulation::lane ^ mask, 'x');
}

template <class T>
T __ldg(const T* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T)) throw std::runtime_error("misaligned read");
  return *from;
}

template <class T>
void atomicAdd(T* to, T x) {
  *to += x;
}

template <class To, class From>
To bits_as(From from) {
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline float __uint_as_float(uint32_t x) { return bits_as<float>(x); }
inline uint32_t __float_as_uint(float x) { return bits_as<uint32_t>(x); }
inline long long __double2ll_rn(double x) { return std::llrint(x); }

template <class Call>
cudaError_t cudaLaunchKernel(void (*kernel)(Call), dim3 grid, dim3 threads, void** arguments,
                             size_t, cudaStream_t) {
  std::vector<char> stacks(emulation::kLanes * emulation::kStack);
  emulation::body = [&] { kernel(*static_cast<const Call*>(arguments[0])); };
  for (uint32_t b = 0; b < grid.x; ++b) {
    emulation::block.x = b;
    for (uint32_t w = 0; w < threads.x / emulation::kLanes; ++w) emulation::run_warp(w, stacks);
  }
  return cudaSuccess;
}

// What the launcher asks of torch's CUDA library.
extern "C" {
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle*) {
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return AOTI_TORCH_SUCCESS; }
AOTITorchError torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool,
                                        char** message) {
  *message = nullptr;
  return AOTI_TORCH_SUCCESS;
}
void torch_c10_cuda_free_error_msg(char*) {}
}

// From here on, the ops go to a namespace of their own, and for CPU tensors.
#define vitadapter_d2 vitadapter_d2_emulated
#define CUDA CPU
