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
#include "mtp/tensor/cuda_devices.h"
#include "mtp/tensor/profile.h"
#include "profile_clock.h"

namespace mtp {

namespace {

/// Addresses for all of the machine's memory; the system gives pages for what is used of them.
class HostMemory : public Memory {
 public:
  HostMemory() : HostMemory(most_addresses()) {}

  Range reserve(std::size_t bytes) override {
    const std::size_t least = round_up(bytes);
    for (std::size_t size = std::max(least, round_up(size_));; size = std::max(least, round_up(size / 2))) {
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
  void release(const Range& range) override { munmap(range.begin, round_up(range.size)); }
  void set_zero(void* to, std::size_t bytes) override { std::memset(to, 0, bytes); }
  void copy(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy_from_host(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy_to_host(const void* from, void* to, std::size_t bytes) override { std::memcpy(to, from, bytes); }

 protected:
  /// `size`: of the addresses that are reserved at a time, where the system has so many.
  explicit HostMemory(std::size_t size) : size_(size) {}

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
    return is_limited ? std::min<std::size_t>(memory, limit.rlim_cur / 2) : memory;
  }

  const std::size_t size_;
};

/// Addresses of any device's memory, or of page-locked memory, which comes in ranges that are no larger than asked for.
/// The host's own data are really written and read, so that what it derives from them (rows with labels, places of ids)
/// is as it would be.
class CountedMemory final : public HostMemory {
 public:
  enum class Of { device, page_locked };
  explicit CountedMemory(Of of) : HostMemory(of == Of::device ? std::size_t{1} << 44 : 0), of_(of) {}

  Range reserve(std::size_t bytes) override {
    Range range = HostMemory::reserve(bytes);
    // A huge page for each of the few numbers that are written would be real memory.
    if (range.begin != nullptr) madvise(range.begin, range.size, MADV_NOHUGEPAGE);
    if (of_ == Of::page_locked) range.size = bytes;
    return range;
  }
  void set_zero(void*, std::size_t) override {}
  void copy(const void*, void*, std::size_t) override {}
  std::string_view remedy() const override {
    return "counting needs addresses, not memory: raise their limit (ulimit -v, vm.overcommit_memory)";
  }

 private:
  const Of of_;
};

/// Operations have finished when they return.
class HostClock : public ProfileClock {
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

/// Of what is not computed.
class CountedClock final : public HostClock {
 public:
  bool shows_ranges() const override { return false; }
};

std::size_t bytes_of(const Tensor& tensor) {
  return static_cast<std::size_t>(tensor.elements()) * size_of(tensor.dtype());
}

template <typename T>
void fill(Arena& arena, const Tensor& tensor, std::span<T> values) {
  MTP_ASSERT(bytes_of(tensor) == values.size_bytes());
  arena.memory().copy_from_host(values.data(), tensor.data<std::byte>(), values.size_bytes());
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

Device::Device(Counting as)
    : kind_(as.kind),
      is_counting_(true),
      threads_(0),
      arena_(std::make_shared<Arena>(std::make_shared<CountedMemory>(CountedMemory::Of::device))),
      host_arena_(arena_),
      profile_(std::make_unique<Profile>(std::make_unique<CountedClock>())) {
  if (kind_ == Kind::cuda)
    host_arena_ = std::make_shared<Arena>(std::make_shared<CountedMemory>(CountedMemory::Of::page_locked));
}

Device Device::counting(Kind kind) {
  if (kind == Kind::cuda && !is_built_with_cuda())
    throw Error("device cuda: its operations cannot be counted by a program that was built without CUDA (MTP_CUDA)");
  return Device(Counting{kind});
}

Device::~Device() = default;

Tensor Device::empty(Shape shape, DType dtype, MemoryUse use) {
  return allocated(*arena_, std::move(shape), dtype, use);
}

Tensor Device::zeros(Shape shape, DType dtype, MemoryUse use) {
  Tensor tensor = empty(std::move(shape), dtype, use);
  set_zero(tensor);
  return tensor;
}

Tensor Device::empty_on_host(Shape shape, DType dtype, MemoryUse use) {
  return allocated(*host_arena_, std::move(shape), dtype, use);
}

Tensor Device::zeros_on_host(Shape shape, DType dtype, MemoryUse use) {
  Tensor tensor = empty_on_host(std::move(shape), dtype, use);
  host_arena_->memory().set_zero(tensor.data<std::byte>(), bytes_of(tensor));
  return tensor;
}

Tensor Device::allocated(Arena& arena, Shape shape, DType dtype, MemoryUse use) const {
  const auto bytes = static_cast<std::size_t>(num_elements(shape)) * size_of(dtype);
  Tensor tensor(arena.allocate(bytes, within_.value_or(use)), std::move(shape), dtype);
  const bool is_index = dtype == DType::i64 || dtype == DType::i32;
  if (is_counting_ && is_index) std::memset(tensor.data<std::byte>(), 0, bytes);
  return tensor;
}

Tensor Device::from_host(std::span<const float> values, Shape shape, DType dtype) {
  Tensor tensor = empty(std::move(shape), dtype);
  write(values, tensor);
  return tensor;
}

Tensor Device::from_host(std::span<const std::int64_t> values) {
  Tensor tensor = empty({static_cast<std::int64_t>(values.size())}, DType::i64);
  write(values, tensor);
  return tensor;
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
  MTP_ASSERT(to.dtype() == DType::i64);
  fill(*arena_, to, values);
}

void Device::write(std::span<const float> values, const Tensor& to) const {
  if (to.dtype() == DType::f32) return fill(*arena_, to, values);
  MTP_ASSERT(to.dtype() == DType::bf16);
  const std::vector<BFloat16> rounded(values.begin(), values.end());
  fill(*arena_, to, std::span(rounded));
}

void Device::set_zero(const Tensor& tensor) const {
  arena_->memory().set_zero(tensor.data<std::byte>(), bytes_of(tensor));
}

void Device::copy(const Tensor& from, const Tensor& to) const {
  MTP_ASSERT(from.dtype() == to.dtype() && from.elements() == to.elements());
  arena_->memory().copy(from.data<std::byte>(), to.data<std::byte>(), bytes_of(from));
}

void Device::copy_to_host(const Tensor& from, const Tensor& to_host) const {
  MTP_ASSERT(from.dtype() == to_host.dtype());
  if (is_counting_) return;
  read(*arena_, from, std::span(to_host.data<std::byte>(), bytes_of(to_host)));
}

void Device::copy_from_host(const Tensor& from_host, const Tensor& to) const {
  MTP_ASSERT(from_host.dtype() == to.dtype());
  if (is_counting_) return;
  fill(*arena_, to, std::span<const std::byte>(from_host.data<std::byte>(), bytes_of(from_host)));
}

std::int64_t Device::memory_in_use() const { return arena_->in_use(); }
MemoryAccounts Device::accounts() const { return arena_->most(); }
MemoryAccounts Device::host_accounts() const { return host_arena_->most(); }
std::int64_t Device::fresh_allocations() const { return arena_->fresh_allocations(); }

}  // namespace mtp
