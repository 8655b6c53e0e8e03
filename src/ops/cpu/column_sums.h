#pragma once

#include <cstdint>

#include "parallel.h"

namespace mtp::ops::cpu {

// Rows that one task handles.
inline constexpr std::int64_t rows_per_task = 64;

/// Calls work(row, part) for every row, with all threads, and then adds what it added to part[i] to sums[i]: over a
/// task's rows, and then over the tasks, in order. `part` is null where `sums` is empty.   sums [width] fp32, or empty
template <typename Work>
void add_column_sums(Device& device, std::int64_t rows, std::int64_t width, const Tensor& sums, const Work& work) {
  const std::int64_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  const Tensor parts = sums.empty() ? Tensor() : device.zeros({tasks, width});
  parallel_pieces(device, rows, rows_per_task, [&](std::int64_t begin, std::int64_t end) {
    float* part = parts.empty() ? nullptr : parts.f32() + begin / rows_per_task * width;
    for (std::int64_t row = begin; row < end; ++row) work(row, part);
  });
  if (sums.empty()) return;
  float* out = sums.f32();
  for (std::int64_t task = 0; task < tasks; ++task) {
    const float* part = parts.f32() + task * width;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) out[i] += part[i];
  }
}

}  // namespace mtp::ops::cpu
