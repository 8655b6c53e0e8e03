#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mtp/tensor/memory_use.h"
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
  /// A device of either kind that counts what another one would be asked for: its memory has addresses and nothing
  /// behind them until the host writes there, and its operations allocate what they need, compute nothing and add up
  /// their FLOPs. Integers are 0 until the host writes them, numbers are anything. A GPU need not be there, only the
  /// back end for it: throws Error in a program that was built without CUDA.
  static Device counting(Kind kind);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  Kind kind() const { return kind_; }
  bool is_counting() const { return is_counting_; }
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

  /// Uninitialised memory, and what it is for in the accounts.
  Tensor empty(Shape shape, DType dtype = DType::f32, MemoryUse use = MemoryUse::activations);
  Tensor zeros(Shape shape, DType dtype = DType::f32, MemoryUse use = MemoryUse::activations);

  /// Memory of the host that is copied to and from a GPU at full speed. Operations on a GPU take none such but where
  /// they say so; `to_host` and `copy` do. On the CPU it is memory like any other.
  Tensor empty_on_host(Shape shape, DType dtype = DType::f32, MemoryUse use = MemoryUse::activations);
  Tensor zeros_on_host(Shape shape, DType dtype = DType::f32, MemoryUse use = MemoryUse::activations);

  /// fp32 or bf16, rounded to the nearest.
  Tensor from_host(std::span<const float> values, Shape shape, DType dtype = DType::f32);
  Tensor from_host(std::span<const std::int64_t> values);
  /// Of fp32 or bf16.
  void to_host(const Tensor& tensor, std::span<float> values) const;
  void to_host(const Tensor& tensor, std::span<double> values) const;
  void to_host(const Tensor& tensor, std::span<std::int64_t> values) const;
  /// Into a tensor of int64; of fp32 or bf16, rounded to the nearest.
  void write(std::span<const std::int64_t> values, const Tensor& to) const;
  void write(std::span<const float> values, const Tensor& to) const;
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

  /// Of a device that counts: adds FLOPs, and those that were added.
  void add_flops(double flops) { flops_ += flops; }
  double flops() const { return flops_; }

  /// Bytes in use by tensors of this device.
  std::int64_t memory_in_use() const;
  /// The most bytes that were ever held: in use, or in gaps between what was. How often more had to be held: not once
  /// in a steady step.
  std::int64_t memory_peak() const { return accounts().held; }
  std::int64_t fresh_allocations() const;
  /// What memory was for when the most was held; of a GPU, the same of the host's memory that `empty_on_host` gave.
  MemoryAccounts accounts() const;
  MemoryAccounts host_accounts() const;

  /// While it lives, all memory is for one use, whatever it is said to be for; the outermost one counts.
  class Within {
   public:
    Within(Device& device, MemoryUse use) : device_(device), outer_(device.within_) {
      if (!outer_) device.within_ = use;
    }
    ~Within() { device_.within_ = outer_; }
    Within(const Within&) = delete;
    Within& operator=(const Within&) = delete;

   private:
    Device& device_;
    const std::optional<MemoryUse> outer_;
  };

 private:
  friend class Replay;  // whose operations have an arena of their own

  explicit Device(std::shared_ptr<CudaContext> context);
  struct Counting {
    Kind kind;
  };
  explicit Device(Counting as);
  Tensor allocated(Arena& arena, Shape shape, DType dtype, MemoryUse use) const;

  Kind kind_ = Kind::cpu;
  bool is_counting_ = false;
  double flops_ = 0;
  ThreadPool threads_;
  std::shared_ptr<CudaContext> context_;
  std::shared_ptr<Arena> arena_, host_arena_;
  std::unique_ptr<Profile> profile_;
  std::optional<MemoryUse> within_;
};

}  // namespace mtp
