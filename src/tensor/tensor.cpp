#include "mtp/tensor/tensor.h"

#include <fmt/ranges.h>

#include <functional>
#include <numeric>

namespace mtp {

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::u8:
      return 1;
  }
  MTP_ASSERT(false);
  return 0;
}

std::string to_string(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "fp32";
    case DType::f64:
      return "fp64";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "fp16";
    case DType::i64:
      return "int64";
    case DType::i32:
      return "int32";
    case DType::u8:
      return "uint8";
  }
  MTP_ASSERT(false);
  return {};
}

std::int64_t num_elements(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

Tensor Tensor::view(Shape shape) const {
  MTP_ASSERT(num_elements(shape) == elements());
  return Tensor(memory_, std::move(shape), dtype_);
}

Tensor Tensor::slice(std::int64_t offset, Shape shape) const {
  MTP_ASSERT(offset >= 0 && offset + num_elements(shape) <= elements());
  std::byte* begin = memory_.get() + offset * static_cast<std::int64_t>(size_of(dtype_));
  return Tensor(std::shared_ptr<std::byte>(memory_, begin), std::move(shape), dtype_);
}

}  // namespace mtp
