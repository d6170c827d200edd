// Multi-scale deformable attention on CPU: what the launcher and the kernels share.
//
// The kernel file is compiled once per instruction set. An inline function with external linkage
// that it shared with another file could be linked in from the AVX-512 object and run on any
// machine, so this header holds plain data only, and the kernel file includes no torch and no C++
// library header.
#pragma once

#include <cstdint>

namespace vitadapter_d2 {

enum class DType : int32_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

struct Input {
  const void* data;
  DType dtype;
};

struct Output {
  void* data;
  DType dtype;
};

// One call. All tensors are contiguous; no size is zero.
struct Problem {
  int64_t B, S, M, D, Q, L, P;
  const int64_t* shapes;      // (H, W) of each level
  Input value;                // (B, S, M, D)
  Input locations;            // (B, Q, M, L, P, 2): sampling locations; fused: offsets
  Input weights;              // (B, Q, M, L, P): attention weights; fused: logits
  Input reference;            // fused: (B or 1, Q, L, numbers)
  int64_t reference_numbers;  // 2 or 4; 0 marks the plain op
  bool reference_shared;      // one reference for all images
  Output output;              // (B, Q, M * D)

  Input grad_output;         // (B, Q, M * D)
  Output grad_value;         // as value
  Output grad_locations;     // as locations
  Output grad_weights;       // as weights
  Output grad_reference;     // as reference; data is null if it is not wanted
  void* reference_partials;  // (B, M, Q, L, numbers) in the compute dtype, or null
};

struct Sizes {
  // Bytes of the buffers that the launcher allocates, each a multiple of 64:
  int64_t packed;   // one head's slice of value
  int64_t grad;     // one head's slice of grad_value, in the compute dtype
  int64_t table;    // constants of the call
  int64_t scratch;  // one worker's block buffers
  int64_t corners;  // where one block's samples read, and their weights
  // Counts:
  int64_t block;     // queries per block; a task starts at a multiple of it
  int64_t elements;  // of a packed slice; below 2^30, as kernels index it by int32
};

// Queries [begin, end) of one group; group = b * M + m.
struct Task {
  const Problem* problem;
  const void* table;
  const void* packed;
  void* grad;     // backward: the group's slice; null if the scatter is left to later tasks
  void* corners;  // then: the group's blocks, for them
  void* scratch;
  int64_t group, begin, end;
};

struct CpuKernels {
  Sizes (*sizes)(const Problem&);
  void (*prepare)(const Problem&, void* table);
  void (*pack)(const Problem&, int64_t group, int64_t begin, int64_t end, void* packed);  // rows
  void (*forward)(const Task&);
  void (*backward)(const Task&);
  // Makes rows [begin, end) of `level` in task.grad what task's queries contribute.
  void (*scatter)(const Task&, int64_t level, int64_t begin, int64_t end);
  // Writes rows [begin, end) of a group's grad_value and clears them in the slice.
  void (*unpack)(const Problem&, int64_t group, int64_t begin, int64_t end, void* grad);
  // grad_reference from its partials, for queries [begin, end).
  void (*reduce_reference)(const Problem&, int64_t begin, int64_t end);
};

// In the order of INSTRUCTION_SETS in vitadapter_d2/ops/_library.py.
extern const CpuKernels kCpuGeneric;
extern const CpuKernels kCpuAvx2;
extern const CpuKernels kCpuAvx512;

}  // namespace vitadapter_d2
