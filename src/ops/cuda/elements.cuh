#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "../../tensor/cuda/context.h"
#include "mtp/tensor/device.h"

namespace mtp::ops::cuda {

/// `n` numbers in registers.
template <int n>
struct Pack {
  float values[n];
};

/// Numbers in fp32 or bf16 as kernels see them: floats, rounded to the nearest where they are stored. The branch on the
/// type is the same for a whole grid and costs nothing beside the memory access.
class Elements {
 public:
  Elements() = default;
  /// Of fp32 or bf16; an empty tensor gives what `empty()` says.
  explicit Elements(const Tensor& tensor)
      : data_(tensor.empty() ? nullptr : tensor.data<void>()), is_bf16_(tensor.dtype() == DType::bf16) {
    MTP_ASSERT(tensor.dtype() == DType::bf16 || tensor.dtype() == DType::f32);
  }

  /// Of a kernel's shared memory, of the type of `like`.
  __device__ Elements(void* data, const Elements& like) : data_(data), is_bf16_(like.is_bf16_) {}

  __device__ void* data() const { return data_; }
  __device__ bool empty() const { return data_ == nullptr; }

  __device__ float operator[](std::int64_t i) const { return is_bf16_ ? from_bf16(bf16()[i]) : fp32()[i]; }
  __device__ void set(std::int64_t i, float value) const {
    if (is_bf16_)
      bf16()[i] = to_bf16(value);
    else
      fp32()[i] = value;
  }
  /// The value as it would be read after `set`.
  __device__ float rounded(float value) const { return is_bf16_ ? from_bf16(to_bf16(value)) : value; }

  /// One element, or eight that are aligned to 16 bytes: see `pack_of`.
  template <int n>
  __device__ Pack<n> load(std::int64_t i) const {
    static_assert(n == 1 || n == 8);
    if constexpr (n == 1)
      return {{(*this)[i]}};
    else
      return load_eight(i);
  }
  template <int n>
  __device__ void store(std::int64_t i, const Pack<n>& pack) const {
    static_assert(n == 1 || n == 8);
    if constexpr (n == 1)
      set(i, pack.values[0]);
    else
      store_eight(i, pack);
  }

  __device__ Elements from(std::int64_t offset) const {
    Elements rest = *this;
    rest.data_ = is_bf16_ ? static_cast<void*>(bf16() + offset) : static_cast<void*>(fp32() + offset);
    return rest;
  }

 private:
  __device__ static float from_bf16(std::uint16_t bits) {
    return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
  }
  __device__ static std::uint16_t to_bf16(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }

  __device__ Pack<8> load_eight(std::int64_t i) const {
    Pack<8> pack;
    if (is_bf16_) {
      const uint4 words = *reinterpret_cast<const uint4*>(bf16() + i);
      const std::uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        pack.values[2 * j] = __uint_as_float(pairs[j] << 16);
        pack.values[2 * j + 1] = __uint_as_float(pairs[j] & 0xFFFF0000u);
      }
    } else {
      const float4* fours = reinterpret_cast<const float4*>(fp32() + i);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float4 four = fours[j];
        pack.values[4 * j] = four.x;
        pack.values[4 * j + 1] = four.y;
        pack.values[4 * j + 2] = four.z;
        pack.values[4 * j + 3] = four.w;
      }
    }
    return pack;
  }
  __device__ void store_eight(std::int64_t i, const Pack<8>& pack) const {
    if (is_bf16_) {
      std::uint32_t pairs[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        pairs[j] = to_bf16(pack.values[2 * j]) | static_cast<std::uint32_t>(to_bf16(pack.values[2 * j + 1])) << 16;
      *reinterpret_cast<uint4*>(bf16() + i) = uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
    } else {
      float4* fours = reinterpret_cast<float4*>(fp32() + i);
#pragma unroll
      for (int j = 0; j < 2; ++j)
        fours[j] = float4{pack.values[4 * j], pack.values[4 * j + 1], pack.values[4 * j + 2], pack.values[4 * j + 3]};
    }
  }

  __device__ std::uint16_t* bf16() const { return static_cast<std::uint16_t*>(data_); }
  __device__ float* fp32() const { return static_cast<float*>(data_); }

  void* data_ = nullptr;
  bool is_bf16_ = false;
};

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// True where kernels may take eight elements at a time: all `widths` are multiples of eight, all tensors aligned.
inline bool is_packed(std::initializer_list<std::int64_t> widths, std::initializer_list<const Tensor*> tensors) {
  for (const std::int64_t width : widths)
    if (width % 8 != 0) return false;
  for (const Tensor* tensor : tensors)
    if (reinterpret_cast<std::uintptr_t>(tensor->data<void>()) % 16 != 0) return false;
  return true;
}

/// body(n) with the constant n = 8 or 1.
template <typename Body>
void with_pack(bool packed, const Body& body) {
  if (packed)
    body(std::integral_constant<int, 8>());
  else
    body(std::integral_constant<int, 1>());
}

/// Queues a kernel on a device; see `mtp::launch`.
template <typename... Parameters, typename... Arguments>
void launch(Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) {
  mtp::launch(device, kernel, grid, block, 0, arguments...);
}

/// A grid's size as CUDA wants it.
inline unsigned blocks(std::int64_t count) {
  MTP_ASSERT(count >= 0 && count < (std::int64_t{1} << 31));
  return static_cast<unsigned>(count);
}

}  // namespace mtp::ops::cuda
