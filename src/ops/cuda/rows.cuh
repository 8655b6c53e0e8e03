#pragma once

#include "reduce.cuh"

namespace mtp::ops::cuda {

// Kernels over rows: narrow ones (heads) take a warp each, eight in a block; wide ones a block.
inline constexpr std::int64_t widest_of_warp = 1024;
inline constexpr int row_block_threads = 256;

inline dim3 block_of_rows(std::int64_t width) {
  return width <= widest_of_warp ? dim3(warp_size, row_block_threads / warp_size) : dim3(row_block_threads, 1);
}

/// The row of this thread, which may be past the last one.
__device__ inline std::int64_t row_of_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
}

/// Over the threads of a row.
__device__ inline float sum_of_row(float value) {
  return blockDim.x == warp_size ? reduce_warp(value, Sum()) : reduce_block(value, Sum());
}

// Sums of columns go over pieces of rows, then over the pieces, each in order.
inline constexpr std::int64_t rows_of_piece = 64;
inline constexpr int column_threads = 64;

template <typename Term>
__global__ void column_pieces_kernel(std::int64_t rows, std::int64_t width, Term term, float* pieces) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * column_threads + threadIdx.x;
  if (column >= width) return;
  const std::int64_t begin = blockIdx.x * rows_of_piece;
  const std::int64_t end = begin + rows_of_piece < rows ? begin + rows_of_piece : rows;
  float sum = 0;
  for (std::int64_t row = begin; row < end; ++row) sum += term(row, row * width + column);
  pieces[blockIdx.x * width + column] = sum;
}

template <typename Term>  // so that every file has its own
__global__ void add_pieces_kernel(std::int64_t pieces, std::int64_t width, const float* parts, float* sums) {
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * column_threads + threadIdx.x;
  if (column >= width) return;
  float sum = 0;
  for (std::int64_t piece = 0; piece < pieces; ++piece) sum += parts[piece * width + column];
  sums[column] += sum;
}

/// sums[column] += Σ_row term(row, row · width + column).   sums [width] fp32
template <typename Term>
void add_column_sums(Device& device, std::int64_t rows, std::int64_t width, const Term& term, const Tensor& sums) {
  const std::int64_t pieces = ceil_div(rows, rows_of_piece);
  const Tensor parts = device.empty({pieces, width});
  const dim3 grid(blocks(pieces), blocks(ceil_div(width, column_threads)));
  launch(device, column_pieces_kernel<Term>, grid, column_threads, rows, width, term, parts.f32());
  launch(device, add_pieces_kernel<Term>, grid.y, column_threads, pieces, width, parts.f32(), sums.f32());
}

}  // namespace mtp::ops::cuda
