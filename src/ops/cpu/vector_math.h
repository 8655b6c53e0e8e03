#pragma once

#include <bit>
#include <cstdint>

namespace mtp::ops::cpu {

// Functions of one float without branches or calls, so that the compiler vectorises an `omp simd` loop over them.
// Source: polynomials and constants are those of Cephes' expf and tanhf (Moshier, netlib.org/cephes).

/// exp(x) within 1.1 ulp; gradual underflow to 0, overflow to infinity, NaN stays.
inline float exp_f32(float x) {
  // Beyond these bounds the result is 0 or infinite anyway. Written so that a NaN goes through.
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  // x = n·ln 2 + r with |r| ≤ ln 2 / 2. Adding 1.5·2²³ rounds to an integer and leaves it in the low bits.
  constexpr float to_integer = 12582912.0f;
  const float shifted = x * 1.44269504088896341f + to_integer;
  const float n = shifted - to_integer;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  // 2ⁿ as a product of two powers, since n may be beyond the exponents of normal numbers.
  const std::int32_t exponent = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(to_integer);
  const std::int32_t half = exponent >> 1;
  return p * std::bit_cast<float>((half + 127) << 23) * std::bit_cast<float>((exponent - half + 127) << 23);
}

/// tanh(x) within 1.5 ulp; NaN stays.
inline float tanh_f32(float x) {
  const float magnitude = x < 0 ? -x : x;
  const float large = 1.0f - 2.0f / (exp_f32(2.0f * magnitude) + 1.0f);
  // Near zero the difference above cancels.
  const float square = x * x;
  float p = -5.70498872745e-3f;
  p = p * square + 2.06390887954e-2f;
  p = p * square - 5.37397155531e-2f;
  p = p * square + 1.33314422036e-1f;
  p = p * square - 3.33332819422e-1f;
  const float small = p * square * x + x;
  return magnitude < 0.625f ? small : (x < 0 ? -large : large);
}

}  // namespace mtp::ops::cpu
