#include "mtp/ops/vision.h"

#include "back_ends.h"

MTP_BACK_ENDS(pixels)
MTP_BACK_ENDS(pool_patches_forward)
MTP_BACK_ENDS(pool_patches_backward)
MTP_BACK_ENDS(standardize_forward)
MTP_BACK_ENDS(standardize_backward)

namespace mtp::ops {

namespace {

void check_pooling(const PatchGrids& grids, std::int64_t k, const Tensor& patches, const Tensor& pooled) {
  MTP_ASSERT(patches.size(0) == grids.rows() && pooled.size(0) * k * k == grids.rows());
  MTP_ASSERT(patches.size(1) == pooled.size(1) && pooled.dtype() == DType::f32);
  for (std::int64_t i = 0; i < grids.count(); ++i)
    MTP_ASSERT(grids.size(i).width % k == 0 && grids.size(i).height % k == 0);
}

}  // namespace

void pixels(Device& device, const PixelRange& range, const Tensor& bytes, const Tensor& y) {
  MTP_ASSERT(bytes.dtype() == DType::u8 && y.elements() == bytes.elements());
  MTP_RUN(pixels, range, bytes, y);
}

void pool_patches_forward(Device& device, const PatchGrids& grids, std::int64_t k, float factor, const Tensor& x,
                          const Tensor& y) {
  check_pooling(grids, k, x, y);
  MTP_RUN(pool_patches_forward, grids, k, factor, x, y);
}

void pool_patches_backward(Device& device, const PatchGrids& grids, std::int64_t k, float factor, const Tensor& dy,
                           const Tensor& dx) {
  check_pooling(grids, k, dx, dy);
  MTP_RUN(pool_patches_backward, grids, k, factor, dy, dx);
}

void standardize_forward(Device& device, const Tensor& x, const Tensor& bias, const Tensor& scale, const Tensor& y) {
  MTP_ASSERT(x.dtype() == DType::f32 && y.elements() == x.elements());
  MTP_ASSERT(bias.elements() == x.size(1) && scale.elements() == x.size(1));
  MTP_RUN(standardize_forward, x, bias, scale, y);
}

void standardize_backward(Device& device, const Tensor& dy, const Tensor& scale, const Tensor& dx) {
  MTP_ASSERT(dx.dtype() == DType::f32 && dy.elements() == dx.elements() && scale.elements() == dx.size(1));
  MTP_RUN(standardize_backward, dy, scale, dx);
}

}  // namespace mtp::ops
