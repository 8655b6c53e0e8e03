#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mtp/tensor/tensor.h"
#include "mtp/tensor/thread_pool.h"

namespace mtp {

class Arena;
class CudaContext;
class Profile;
class Replay;

/// Where tensors live and operations run. Operations take it by reference; nothing is global.
/// On the CPU they run on a pool of threads and have finished when they return. On a GPU they are queued in the order
/// of the calls; only `to_host` waits for them, and `from_host` until it has read the values.
class Device {
 public:
  enum class Kind { cpu, cuda };
  /// Returns once `is_done` says so, which it asks again and again, or throws.
  using Wait = std::function<void(const std::function<bool()>& is_done)>;

  /// The CPU, with `threads` threads that run every operation.
  explicit Device(int threads);
  /// A GPU by the number that the CUDA runtime gives it; see `find_cuda_devices`.
  static Device cuda(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Kind kind() const { return context_ == nullptr ? Kind::cpu : Kind::cuda; }
  /// Of a CPU.
  const ThreadPool& threads() const { return threads_; }
  /// Of a GPU: its stream, for `ops`.
  CudaContext& context() const { return *context_; }
  /// What its operations are measured by.
  Profile& profile() const { return *profile_; }

  /// "cpu", or "cuda" and the GPU's name.
  std::string name() const;
  /// The name and, of a GPU, what else its results may depend on: its size, driver and runtime.
  std::string description() const;
  /// Of a GPU: what no other one has, on this machine or another; and its memory in bytes.
  std::string identity() const;
  std::int64_t memory_size() const;
  /// How this thread waits for a GPU from now on, where it must not wait in vain: for what other ranks have a part in.
  void on_wait(Wait wait);

  /// Uninitialised memory.
  Tensor empty(Shape shape, DType dtype = DType::f32);
  Tensor zeros(Shape shape, DType dtype = DType::f32);

  /// Memory of the host that is copied to and from a GPU at full speed. Operations on a GPU take none such but where
  /// they say so; `to_host` and `copy` do. On the CPU it is memory like any other.
  Tensor empty_on_host(Shape shape, DType dtype = DType::f32);
  Tensor zeros_on_host(Shape shape, DType dtype = DType::f32);

  /// fp32 or bf16, rounded to the nearest.
  Tensor from_host(std::span<const float> values, Shape shape, DType dtype = DType::f32);
  Tensor from_host(std::span<const std::int64_t> values);
  /// Of fp32 or bf16.
  void to_host(const Tensor& tensor, std::span<float> values) const;
  void to_host(const Tensor& tensor, std::span<double> values) const;
  void to_host(const Tensor& tensor, std::span<std::int64_t> values) const;
  /// Into a tensor of int64.
  void write(std::span<const std::int64_t> values, const Tensor& to) const;
  /// All of a tensor of int64.
  std::vector<std::int64_t> ids_to_host(const Tensor& ids) const {
    std::vector<std::int64_t> values(static_cast<std::size_t>(ids.elements()));
    to_host(ids, values);
    return values;
  }
  /// Of any type.
  void set_zero(const Tensor& tensor) const;
  /// Both of one type and size.
  void copy(const Tensor& from, const Tensor& to) const;

  /// The same with one tensor on the host, from `empty_on_host`. Both wait.
  void copy_to_host(const Tensor& from, const Tensor& to_host) const;
  void copy_from_host(const Tensor& from_host, const Tensor& to) const;

  /// Bytes in use by tensors of this device.
  std::int64_t memory_in_use() const;
  /// The most bytes that were ever held: in use, or in gaps between what was. How often more had to be held: not once
  /// in a steady step.
  std::int64_t memory_peak() const;
  std::int64_t fresh_allocations() const;

 private:
  friend class Replay;  // whose operations have an arena of their own

  explicit Device(std::shared_ptr<CudaContext> context);

  ThreadPool threads_;
  std::shared_ptr<CudaContext> context_;
  std::shared_ptr<Arena> arena_, host_arena_;
  std::unique_ptr<Profile> profile_;
};

}  // namespace mtp
