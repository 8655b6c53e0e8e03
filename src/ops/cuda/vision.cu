#include "mtp/ops/vision.h"

#include "elements.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;

__global__ void pixels_kernel(std::int64_t elements, PixelRange range, const std::uint8_t* bytes, Elements y) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i < elements) y.set(i, range.factor * (static_cast<float>(bytes[i]) * (1.0f / 255.0f) - range.middle));
}

/// A grid of patches and the squares of k × k that it is cut into.
struct Squares {
  std::int64_t k, width, first_patch, first_square;

  /// The patch `n` of k² in a square, in the order of rows.
  __device__ std::int64_t patch(std::int64_t square, std::int64_t n) const {
    const std::int64_t columns = width / k;
    return first_patch + (square / columns * k + n / k) * width + square % columns * k + n % k;
  }
};

/// A block of threads has a square.
__global__ void pool_kernel(Squares squares, std::int64_t columns, float factor, Elements x, float* y) {
  const std::int64_t square = blockIdx.x, patches = squares.k * squares.k;
  for (std::int64_t i = threadIdx.x; i < columns; i += threads) {
    float sum = 0;
    for (std::int64_t n = 0; n < patches; ++n) sum += x[squares.patch(square, n) * columns + i];
    y[(squares.first_square + square) * columns + i] = x.rounded(sum / static_cast<float>(patches)) * factor;
  }
}

__global__ void pool_backward_kernel(Squares squares, std::int64_t columns, float share, const float* dy, Elements dx) {
  const std::int64_t square = blockIdx.x, patches = squares.k * squares.k;
  for (std::int64_t i = threadIdx.x; i < columns; i += threads) {
    const float value = dy[(squares.first_square + square) * columns + i] * share;
    for (std::int64_t n = 0; n < patches; ++n) dx.set(squares.patch(square, n) * columns + i, value);
  }
}

/// body(squares, their number) for every image.
template <typename Body>
void for_each_image(const PatchGrids& grids, std::int64_t k, const Body& body) {
  for (std::int64_t i = 0; i < grids.count(); ++i)
    body(Squares{k, grids.size(i).width, grids.begin(i), grids.begin(i) / (k * k)}, grids.size(i).patches() / (k * k));
}

/// A block of threads has a row. y = (x - bias) · scale, or without a bias x · scale.
__global__ void standardize_kernel(std::int64_t columns, Elements x, Elements bias, Elements scale, Elements y) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * columns;
  for (std::int64_t i = threadIdx.x; i < columns; i += threads)
    y.set(row + i, (x[row + i] - (bias.empty() ? 0.0f : bias[i])) * scale[i]);
}

}  // namespace

void pixels(Device& device, const PixelRange& range, const Tensor& bytes, const Tensor& y) {
  launch(device, pixels_kernel, blocks(ceil_div(y.elements(), threads)), threads, y.elements(), range,
         bytes.data<const std::uint8_t>(), Elements(y));
}

void pool_patches_forward(Device& device, const PatchGrids& grids, std::int64_t k, float factor, const Tensor& x,
                          const Tensor& y) {
  for_each_image(grids, k, [&](const Squares& squares, std::int64_t count) {
    launch(device, pool_kernel, blocks(count), threads, squares, x.size(1), factor, Elements(x), y.f32());
  });
}

void pool_patches_backward(Device& device, const PatchGrids& grids, std::int64_t k, float factor, const Tensor& dy,
                           const Tensor& dx) {
  const float share = factor / static_cast<float>(k * k);
  for_each_image(grids, k, [&](const Squares& squares, std::int64_t count) {
    launch(device, pool_backward_kernel, blocks(count), threads, squares, dx.size(1), share, dy.f32(), Elements(dx));
  });
}

void standardize_forward(Device& device, const Tensor& x, const Tensor& bias, const Tensor& scale, const Tensor& y) {
  launch(device, standardize_kernel, blocks(x.size(0)), threads, x.size(1), Elements(x), Elements(bias),
         Elements(scale), Elements(y));
}

void standardize_backward(Device& device, const Tensor& dy, const Tensor& scale, const Tensor& dx) {
  launch(device, standardize_kernel, blocks(dx.size(0)), threads, dx.size(1), Elements(dy), Elements(Tensor()),
         Elements(scale), Elements(dx));
}

}  // namespace mtp::ops::cuda
