#include "mtp/tensor/device.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "mtp/tensor/bfloat16.h"

namespace mtp {

/// Hands out blocks of memory and takes them back for reuse: fresh pages from the system cost more than many of the
/// operations that fill them. Blocks come in eight sizes per power of two, so that at most an eighth is wasted.
class Arena : public std::enable_shared_from_this<Arena> {
 public:
  ~Arena() {
    for (auto& [size, blocks] : free_)
      for (void* block : blocks) std::free(block);
  }

  std::shared_ptr<std::byte> allocate(std::size_t bytes) {
    const std::size_t size = block_size(bytes);
    void* block = take(size);
    return {static_cast<std::byte*>(block), [arena = shared_from_this(), size](void* p) { arena->give_back(p, size); }};
  }

  std::int64_t in_use() const { return in_use_; }
  std::int64_t peak() const { return peak_; }

 private:
  static constexpr std::size_t alignment = 64;

  static std::size_t block_size(std::size_t bytes) {
    const std::size_t step = std::max(alignment, std::bit_floor(std::max<std::size_t>(bytes, 1)) / 8);
    return (std::max<std::size_t>(bytes, 1) + step - 1) / step * step;
  }

  void* take(std::size_t size) {
    const std::lock_guard lock(mutex_);
    in_use_ += static_cast<std::int64_t>(size);
    peak_ = std::max(peak_, in_use_);
    if (auto found = free_.find(size); found != free_.end() && !found->second.empty()) {
      void* block = found->second.back();
      found->second.pop_back();
      return block;
    }
    void* block = std::aligned_alloc(alignment, size);
    if (block == nullptr)
      throw Error("memory: {} MiB could not be allocated beside {} MiB in use; use more ranks or train.recompute true",
                  size >> 20, in_use_ >> 20);
    return block;
  }

  void give_back(void* block, std::size_t size) {
    const std::lock_guard lock(mutex_);
    in_use_ -= static_cast<std::int64_t>(size);
    free_[size].push_back(block);
  }

  std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;
  std::int64_t in_use_ = 0, peak_ = 0;
};

Device::Device(int threads) : threads_(threads), arena_(std::make_shared<Arena>()) {}
Device::~Device() = default;

Tensor Device::empty(Shape shape, DType dtype) {
  const auto bytes = static_cast<std::size_t>(num_elements(shape)) * size_of(dtype);
  return Tensor(arena_->allocate(bytes), std::move(shape), dtype);
}

Tensor Device::zeros(Shape shape, DType dtype) {
  Tensor tensor = empty(std::move(shape), dtype);
  std::memset(tensor.data<std::byte>(), 0, static_cast<std::size_t>(tensor.elements()) * size_of(dtype));
  return tensor;
}

Tensor Device::from_host(std::span<const float> values, Shape shape, DType dtype) {
  Tensor tensor = empty(std::move(shape), dtype);
  MTP_ASSERT(tensor.elements() == static_cast<std::int64_t>(values.size()));
  if (dtype == DType::bf16)
    std::copy(values.begin(), values.end(), tensor.data<BFloat16>());
  else
    std::copy(values.begin(), values.end(), tensor.f32());
  return tensor;
}

Tensor Device::from_host(std::span<const std::int64_t> values) {
  Tensor tensor = empty({static_cast<std::int64_t>(values.size())}, DType::i64);
  std::copy(values.begin(), values.end(), tensor.data<std::int64_t>());
  return tensor;
}

void Device::to_host(const Tensor& tensor, std::span<float> values) const {
  MTP_ASSERT(tensor.elements() == static_cast<std::int64_t>(values.size()));
  if (tensor.dtype() == DType::bf16)
    std::copy_n(tensor.data<BFloat16>(), values.size(), values.begin());
  else
    std::copy_n(tensor.f32(), values.size(), values.begin());
}

void Device::to_host(const Tensor& tensor, std::span<double> values) const {
  MTP_ASSERT(tensor.dtype() == DType::f64 && tensor.elements() == static_cast<std::int64_t>(values.size()));
  std::copy_n(tensor.data<double>(), values.size(), values.begin());
}

void Device::to_host(const Tensor& tensor, std::span<std::int64_t> values) const {
  MTP_ASSERT(tensor.dtype() == DType::i64 && tensor.elements() == static_cast<std::int64_t>(values.size()));
  std::copy_n(tensor.data<std::int64_t>(), values.size(), values.begin());
}

void Device::copy(const Tensor& from, const Tensor& to) const {
  MTP_ASSERT(from.dtype() == to.dtype() && from.elements() == to.elements());
  std::memcpy(to.data<std::byte>(), from.data<std::byte>(),
              static_cast<std::size_t>(from.elements()) * size_of(from.dtype()));
}

std::int64_t Device::memory_in_use() const { return arena_->in_use(); }
std::int64_t Device::memory_peak() const { return arena_->peak(); }

}  // namespace mtp
