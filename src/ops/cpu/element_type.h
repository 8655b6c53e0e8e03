#pragma once

#include <type_traits>

#include "mtp/ops/elementwise.h"
#include "mtp/tensor/bfloat16.h"

namespace mtp::ops::cpu {

/// The elements of a tensor that holds T. BFloat16 converts from and to float where it is stored and loaded, so that
/// one loop serves both types.
template <typename T>
T* elements_of(const Tensor& x) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, BFloat16>);
  MTP_ASSERT(x.dtype() == (std::is_same_v<T, float> ? DType::f32 : DType::bf16));
  return x.data<T>();
}

/// Calls body(T()) with the type of the elements of `x`, fp32 or bf16.
template <typename Body>
void with_type_of(const Tensor& x, const Body& body) {
  MTP_ASSERT(x.dtype() == DType::f32 || x.dtype() == DType::bf16);
  if (x.dtype() == DType::f32)
    body(float());
  else
    body(BFloat16());
}

// For operations that read their inputs many times and are better off with fp32 copies:

/// The tensor itself, or an fp32 copy of another type.
inline Tensor as_fp32(Device& device, const Tensor& x) {
  if (x.empty() || x.dtype() == DType::f32) return x;
  Tensor copy = device.empty(x.shape());
  convert(device, x, copy);
  return copy;
}

/// The tensor itself, or fp32 memory of its shape whose contents `store` brings there.
inline Tensor fp32_for(Device& device, const Tensor& y) {
  return y.empty() || y.dtype() == DType::f32 ? y : device.empty(y.shape());
}

inline void store(Device& device, const Tensor& values, const Tensor& y) {
  if (!y.empty() && y.dtype() != DType::f32) convert(device, values, y);
}

}  // namespace mtp::ops::cpu
