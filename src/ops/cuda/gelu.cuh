#pragma once

#include <cuda_runtime.h>

#include <cmath>

namespace mtp::ops::cuda {

// gelu(x) = x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))
inline constexpr float gelu_scale = 0.7978845608028654f;
inline constexpr float gelu_cubic = 0.044715f;

/// The hyperbolic tangent that gelu(x) and its derivative are made of.
__device__ inline float gelu_tangent(float x) { return tanhf(gelu_scale * (x + gelu_cubic * x * x * x)); }
__device__ inline float gelu(float x, float tangent) { return 0.5f * x * (1.0f + tangent); }

}  // namespace mtp::ops::cuda
