#include "mtp/tensor/device.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "arena.h"
#include "mtp/tensor/bfloat16.h"
#include "mtp/tensor/profile.h"
#include "profile_clock.h"

namespace mtp {

namespace {

/// Addresses for all of the machine's memory; the system gives pages for what is used of them.
class HostMemory : public Memory {
 public:
  Range reserve(std::size_t bytes) override {
    const std::size_t least = round_up(bytes);
    for (std::size_t size = std::max(least, most_addresses());; size = std::max(least, round_up(size / 2))) {
      void* begin = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (begin != MAP_FAILED) return {static_cast<std::byte*>(begin), size, 0};
      if (size == least) return {};
    }
  }
  bool back(Range& range, std::size_t bytes) override {
    const std::size_t end = round_up(bytes);
    if (mprotect(range.begin + range.backed, end - range.backed, PROT_READ | PROT_WRITE) != 0) return false;
    range.backed = end;
    return true;
  }
  void release(const Range& range) override { munmap(range.begin, range.size); }
  void set_zero(void* to, std::size_t bytes) override { std::memset(to, 0, bytes); }
  void copy(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy_from_host(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy_to_host(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }

 private:
  static std::size_t round_up(std::size_t bytes) {
    constexpr std::size_t step = std::size_t{2} << 20;  // a huge page
    return (bytes + step - 1) / step * step;
  }
  /// A limit on addresses (ulimit -v) holds for the rest of the program too.
  static std::size_t most_addresses() {
    rlimit limit = {};
    const bool is_limited = getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    const auto memory = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
    return round_up(is_limited ? std::min<std::size_t>(memory, limit.rlim_cur / 2) : memory);
  }
};

/// Operations have finished when they return.
class HostClock final : public ProfileClock {
 public:
  std::size_t mark() override {
    marks_.push_back(std::chrono::steady_clock::now());
    return marks_.size() - 1;
  }
  double seconds_between(std::size_t begin, std::size_t end) const override {
    return std::chrono::duration<double>(marks_[end] - marks_[begin]).count();
  }
  void clear() override { marks_.clear(); }

 private:
  std::vector<std::chrono::steady_clock::time_point> marks_;
};

std::size_t bytes_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype());
}

template <typename T>
Tensor filled(Arena& arena, Tensor tensor, std::span<T> values) {
  MTP_ASSERT(bytes_of(tensor) == values.size_bytes());
  arena.memory().copy_from_host(values.data(), tensor.data<std::byte>(), values.size_bytes());
  return tensor;
}

template <typename T>
void read(Arena& arena, const Tensor& tensor, std::span<T> values) {
  MTP_ASSERT(bytes_of(tensor) == values.size_bytes());
  arena.memory().copy_to_host(tensor.data<std::byte>(), values.data(), values.size_bytes());
}

}  // namespace

Device::Device(int threads)
    : threads_(threads),
      arena_(std::make_shared<Arena>(std::make_shared<HostMemory>())),
      host_arena_(arena_),
      profile_(std::make_unique<Profile>(std::make_unique<HostClock>())) {}
Device::~Device() = default;

Tensor Device::empty(Shape shape, DType dtype) {
  const auto bytes = static_cast<std::size_t>(num_elements(shape)) * size_of(dtype);
  return Tensor(arena_->allocate(bytes), std::move(shape), dtype);
}

Tensor Device::zeros(Shape shape, DType dtype) {
  Tensor tensor = empty(std::move(shape), dtype);
  set_zero(tensor);
  return tensor;
}

Tensor Device::zeros_on_host(Shape shape, DType dtype) {
  Tensor tensor = empty_on_host(std::move(shape), dtype);
  std::memset(tensor.data<std::byte>(), 0, bytes_of(tensor));
  return tensor;
}

Tensor Device::from_host(std::span<const float> values, Shape shape, DType dtype) {
  if (dtype == DType::f32) return filled(*arena_, empty(std::move(shape)), values);
  const std::vector<BFloat16> rounded(values.begin(), values.end());
  return filled(*arena_, empty(std::move(shape), DType::bf16), std::span(rounded));
}

Tensor Device::from_host(std::span<const std::int64_t> values) {
  return filled(*arena_, empty({static_cast<std::int64_t>(values.size())}, DType::i64), values);
}

void Device::to_host(const Tensor& tensor, std::span<float> values) const {
  if (tensor.dtype() == DType::f32) return read(*arena_, tensor, values);
  std::vector<BFloat16> stored(values.size());
  read(*arena_, tensor, std::span(stored));
  std::copy(stored.begin(), stored.end(), values.begin());
}

void Device::to_host(const Tensor& tensor, std::span<double> values) const {
  MTP_ASSERT(tensor.dtype() == DType::f64);
  read(*arena_, tensor, values);
}

void Device::to_host(const Tensor& tensor, std::span<std::int64_t> values) const {
  MTP_ASSERT(tensor.dtype() == DType::i64);
  read(*arena_, tensor, values);
}

void Device::write(std::span<const std::int64_t> values, const Tensor& to) const {
  MTP_ASSERT(to.dtype() == DType::i64 && bytes_of(to) == values.size_bytes());
  arena_->memory().copy_from_host(values.data(), to.data<std::byte>(), values.size_bytes());
}

void Device::set_zero(const Tensor& tensor) const {
  arena_->memory().set_zero(tensor.data<std::byte>(), bytes_of(tensor));
}

void Device::copy(const Tensor& from, const Tensor& to) const {
  MTP_ASSERT(from.dtype() == to.dtype() && from.elements() == to.elements());
  arena_->memory().copy(from.data<std::byte>(), to.data<std::byte>(), bytes_of(from));
}

Tensor Device::empty_on_host(Shape shape, DType dtype) {
  const auto bytes = static_cast<std::size_t>(num_elements(shape)) * size_of(dtype);
  return Tensor(host_arena_->allocate(bytes), std::move(shape), dtype);
}

void Device::copy_to_host(const Tensor& from, const Tensor& to_host) const {
  MTP_ASSERT(from.dtype() == to_host.dtype());
  read(*arena_, from, std::span(to_host.data<std::byte>(), bytes_of(to_host)));
}

void Device::copy_from_host(const Tensor& from_host, const Tensor& to) const {
  MTP_ASSERT(from_host.dtype() == to.dtype());
  filled(*arena_, to, std::span<const std::byte>(from_host.data<std::byte>(), bytes_of(from_host)));
}

std::int64_t Device::memory_in_use() const { return arena_->in_use(); }
std::int64_t Device::memory_peak() const { return arena_->held(); }
std::int64_t Device::fresh_allocations() const { return arena_->fresh_allocations(); }

}  // namespace mtp
