#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "mtp/tensor/device.h"

namespace mtp {

/// The gradient of one value: the sum of what its users gave, in the order of the backward.
class GradientSum {
 public:
  bool empty() const { return sum_.empty(); }
  void add(Device& device, Tensor gradient);
  /// Adds to columns begin … of a gradient [T, width].
  void add_columns(Device& device, const Tensor& gradient, std::int64_t begin, std::int64_t width);
  Tensor take() { return std::exchange(sum_, Tensor()); }

 private:
  Tensor sum_;
};

/// A tensor in a graph. Copies refer to the same value.
struct Value {
  Tensor data;
  std::shared_ptr<GradientSum> gradient = nullptr;  // null: no gradient flows here

  bool needs_gradient() const { return gradient != nullptr; }
};

/// Keys and values of a layer, [T, kv_heads, d] each.
struct KeyValue {
  Value key, value;
};

}  // namespace mtp
