#pragma once

#include "attention_tiles.h"
#include "reduce.cuh"
#include "sequence_table.cuh"
#include "shared_memory.cuh"

namespace mtp::ops::cuda {

// What the plain kernels of attention share. They work on blocks of queries and keys, of which one thread each takes a
// pair (query i, key j) while scores are computed, and columns of all rows while rows are summed.

inline constexpr int block_rows = 16;
inline constexpr int attention_threads = block_rows * block_rows;
inline constexpr int widest_head = 512;
inline constexpr int columns_of_thread = widest_head / attention_threads;

/// One head of packed rows [T, heads, d], from a sequence's first row on.
struct Head {
  Elements elements;
  std::int64_t stride;  // between rows

  __device__ float at(std::int64_t row, std::int64_t column) const { return elements[row * stride + column]; }
  __device__ void set(std::int64_t row, std::int64_t column, float value) const {
    elements.set(row * stride + column, value);
  }
};

__device__ inline Head head_of(const Elements& x, std::int64_t heads, std::int64_t head, std::int64_t width,
                               std::int64_t first_row) {
  return {x.from((first_row * heads + head) * width), heads * width};
}

/// Rows of a head in shared memory, one more float apart than they are wide: 32 threads that read a column read from 32
/// banks.
struct Tile {
  float* values;
  int width;

  static std::size_t bytes(std::int64_t width) { return block_rows * (width + 1) * sizeof(float); }
  __device__ Tile(int place, std::int64_t of_width)
      : values(shared_memory<float>() + place * block_rows * (of_width + 1)), width(static_cast<int>(of_width)) {}

  __device__ const float* row(int i) const { return values + i * (width + 1); }

  /// Rows `rows` of a head, zero past their end. By all threads of a block.
  __device__ void load(const Head& head, Range rows) const {
    for (int i = static_cast<int>(threadIdx.x); i < block_rows * width; i += attention_threads) {
      const int row = i / width, column = i % width, from = rows.begin + row;
      values[row * (width + 1) + column] = from < rows.end ? head.at(from, column) : 0.0f;
    }
  }
};

__device__ inline float dot(const float* a, const float* b, int n) {
  float sum = 0;
#pragma unroll 4
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// One number for each pair of a query and a key.
using Pairs = float[block_rows][block_rows + 1];

/// A thread's columns of the sums over rows.
struct Sums {
  float values[block_rows][columns_of_thread] = {};

  /// Row i += Σ_j weight(i, j) · the tile's row j.
  template <typename Weight>
  __device__ void add(const Weight& weight, const Tile& tile) {
#pragma unroll
    for (int c = 0; c < columns_of_thread; ++c) {
      const int column = static_cast<int>(threadIdx.x) + c * attention_threads;
      if (column >= tile.width) break;
#pragma unroll 2  // more would spill registers
      for (int j = 0; j < block_rows; ++j) {
        const float value = tile.row(j)[column];
#pragma unroll
        for (int i = 0; i < block_rows; ++i) values[i][c] += weight(i, j) * value;
      }
    }
  }
  /// Writes row i times factor(i) to row `rows.begin` + i of a head.
  template <typename Factor>
  __device__ void store(const Head& head, Range rows, int width, const Factor& factor) const {
#pragma unroll
    for (int c = 0; c < columns_of_thread; ++c) {
      const int column = static_cast<int>(threadIdx.x) + c * attention_threads;
      if (column >= width) break;
#pragma unroll
      for (int i = 0; i < block_rows; ++i)
        if (rows.begin + i < rows.end) head.set(rows.begin + i, column, values[i][c] * factor(i));
    }
  }
};

/// Sizes of the packed tensors: q [T, heads, d], k [T, kv_heads, d].
struct AttentionShape {
  std::int64_t rows, heads, kv_heads, width;

  __host__ __device__ std::int64_t heads_per_group() const { return heads / kv_heads; }
};

inline AttentionShape shape_of(const Tensor& q, const Tensor& k) {
  // Kernels count rows of heads, and the elements of 64 rows, in 32 bits.
  MTP_ASSERT(q.size(0) * q.size(1) < std::int64_t{1} << 31 && q.size(1) * q.size(2) < std::int64_t{1} << 26);
  MTP_ASSERT(q.size(2) <= widest_head);
  return {q.size(0), q.size(1), k.size(1), q.size(2)};
}

/// The most tiles of `rows` rows that a sequence of the table has.
inline std::int64_t most_tiles(const SequenceTable& table, std::int64_t rows) {
  std::int64_t longest = 0;
  for (int b = 0; b < table.count; ++b) longest = std::max(longest, table.offsets[b + 1] - table.offsets[b]);
  return ceil_div(longest, rows);
}

// As the operations, for any head size in fp32 or bf16, or on tensor cores for bf16 and the sizes 64, 128, 256 and 512.
// mean [heads, T] fp32 is Σ dout · out of each row.
void plain_attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                             const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse);
void plain_attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                              const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mean, const Tensor& lse,
                              const Tensor& dq, const Tensor& dk, const Tensor& dv);
void mma_attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                           const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse);
void mma_attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                            const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mean, const Tensor& lse,
                            const Tensor& dq, const Tensor& dk, const Tensor& dv);

}  // namespace mtp::ops::cuda
