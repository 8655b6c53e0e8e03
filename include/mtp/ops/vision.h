#pragma once

#include "mtp/ops/patch_grids.h"
#include "mtp/tensor/device.h"

namespace mtp::ops {

// What a vision tower computes besides a text model's operations. Patches are rows, packed as PatchGrids says.
// Source of all: Gemma4VisionModel, Hugging Face modeling_gemma4.py.

/// y = factor · (u/255 - middle) of bytes u, with u/255 as the product of fp32 with the constant rounded to fp32.
///   bytes [P, n] uint8, y [P, n] fp32 or bf16
struct PixelRange {
  float middle, factor;
};
void pixels(Device& device, const PixelRange& range, const Tensor& bytes, const Tensor& y);

/// y's row of each soft token = factor · the mean over its square of k × k patches, which is rounded to x's type before
/// it is multiplied. Widths and heights of all grids are multiples of k; squares go row by row from the top left.
///   x [P, W] fp32 or bf16, y [P / k², W] fp32
void pool_patches_forward(Device& device, const PatchGrids& grids, std::int64_t k, float factor, const Tensor& x,
                          const Tensor& y);

/// dx of the above, written.   dy [P / k², W] fp32, dx [P, W] fp32 or bf16
void pool_patches_backward(Device& device, const PatchGrids& grids, std::int64_t k, float factor, const Tensor& dy,
                           const Tensor& dx);

/// y = (x - bias) · scale, in fp32.   x [T, W] fp32; bias, scale [W] and y [T, W] fp32 or bf16
void standardize_forward(Device& device, const Tensor& x, const Tensor& bias, const Tensor& scale, const Tensor& y);

/// dx of the above, written; bias and scale get no gradient.   dy [T, W], scale [W] fp32 or bf16, dx [T, W] fp32
void standardize_backward(Device& device, const Tensor& dy, const Tensor& scale, const Tensor& dx);

}  // namespace mtp::ops
