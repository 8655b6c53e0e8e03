#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "mtp/core/error.h"

namespace mtp {

/// Element types that the programs compute with. Files may hold others, which are carried as bytes.
enum class DType { f32, f64, bf16, f16, i64, i32, u8 };

std::size_t size_of(DType dtype);
std::string to_string(DType dtype);

using Shape = std::vector<std::int64_t>;

/// Number of elements; 1 for the empty shape.
std::int64_t num_elements(const Shape& shape);
/// "[3, 4]", as messages show it.
std::string to_string(const Shape& shape);

/// A dense row-major array on a device: a counted reference to memory of an arena, or a view into one.
/// Copies share the memory. `data<T>()` is for `ops` and for host tensors only.
class Tensor {
 public:
  Tensor() = default;
  Tensor(std::shared_ptr<std::byte> memory, Shape shape, DType dtype)
      : memory_(std::move(memory)), shape_(std::move(shape)), dtype_(dtype) {}

  bool empty() const { return memory_ == nullptr; }
  /// True where no other tensor refers to the same memory.
  bool unique() const { return memory_.use_count() == 1; }
  const Shape& shape() const { return shape_; }
  /// Size of dimension `i`; negative counts from the end.
  std::int64_t size(int i) const { return shape_[i < 0 ? shape_.size() + i : i]; }
  std::int64_t elements() const { return num_elements(shape_); }
  DType dtype() const { return dtype_; }

  /// The same elements under another shape.
  Tensor view(Shape shape) const;
  /// `shape` elements from element `offset` on.
  Tensor slice(std::int64_t offset, Shape shape) const;

  template <typename T>
  T* data() const {
    return reinterpret_cast<T*>(memory_.get());
  }
  float* f32() const {
    MTP_ASSERT(dtype_ == DType::f32);
    return data<float>();
  }

 private:
  std::shared_ptr<std::byte> memory_;
  Shape shape_;
  DType dtype_ = DType::f32;
};

}  // namespace mtp
