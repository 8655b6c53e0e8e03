#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "mtp/tensor/tensor.h"
#include "mtp/tensor/thread_pool.h"

namespace mtp {

class Arena;

/// Where tensors live and operations run. Operations take it by reference; nothing is global.
/// Only the CPU exists so far: its operations run on a pool of threads and have finished when they return.
class Device {
 public:
  /// `threads` threads run every operation.
  explicit Device(int threads);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const ThreadPool& threads() const { return threads_; }

  /// Uninitialised memory.
  Tensor empty(Shape shape, DType dtype = DType::f32);
  Tensor zeros(Shape shape, DType dtype = DType::f32);

  /// fp32 or bf16, rounded to the nearest.
  Tensor from_host(std::span<const float> values, Shape shape, DType dtype = DType::f32);
  Tensor from_host(std::span<const std::int64_t> values);
  /// Of fp32 or bf16.
  void to_host(const Tensor& tensor, std::span<float> values) const;
  void to_host(const Tensor& tensor, std::span<double> values) const;
  void to_host(const Tensor& tensor, std::span<std::int64_t> values) const;
  /// Both of one type and size.
  void copy(const Tensor& from, const Tensor& to) const;

  /// Bytes in use, and the most that ever were, by tensors of this device.
  std::int64_t memory_in_use() const;
  std::int64_t memory_peak() const;

 private:
  ThreadPool threads_;
  std::shared_ptr<Arena> arena_;
};

}  // namespace mtp
