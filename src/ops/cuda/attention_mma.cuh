#pragma once

#include "attention.cuh"
#include "mma.cuh"

namespace mtp::ops::cuda {

// What the forward and the backward of attention on tensor cores share. A block of threads owns 64 rows of one result,
// which it alone writes, and streams tiles of 64 rows of what they depend on, in a fixed order:
//
//   result   own rows   streamed    sums                 weights
//   out      q          k, v        += weights · v       softmax(q kᵀ), rescaled as the maximum grows
//   dq       q, dout    k, v        += weights · k       p ∘ (dout vᵀ - mean)
//   dk       k, v       q, dout     += weights · q       the same, transposed
//   dv       k          q, dout     += weights · dout    p, transposed
//
// Own rows stay in shared memory. What is streamed goes through a ring of stages, a step of some columns at a time:
// first the columns of each operand that the own rows are multiplied with, then those that are weighted and summed.
// Weights are rounded to bf16, sums are fp32 in registers.
//
// Each step is one or two products of 64 rows, 64 columns and an inner size of 64, of which a warp computes 32 rows: so
// an operand that it reads from shared memory serves two instructions. Sums of a head of 512 take all the registers
// that eight warps may have for it (128 of a thread's 255), so dk and dv have blocks of their own, which compute p
// again.

inline constexpr int tile_rows = 64;
inline constexpr int panel_columns = 64;
inline constexpr unsigned panel_bytes = tile_rows * panel_columns * 2;
inline constexpr int warp_rows = 2;  // of warps in a block
inline constexpr int rows_of_thread = 4;

/// Of the ring: see Blocking.
constexpr unsigned stages_of(int width, int own_operands) {
  if (width == 64) return 3;
  if (width == 128) return own_operands == 1 ? 3 : 2;
  if (width == 256) return 4;
  return own_operands == 1 ? 5 : 3;
}

/// How the work on heads of a width is cut, with one product with the own rows or two. Shared memory, in KiB: own rows
/// + weights + stages, for 512 as much as a block may have on 8.0 (163), else so little that two blocks fit on 9.0.
///
///   width   one product           two products
///      64    8 + 8 + 3 ·  8         16 + 8 + 3 ·  8
///     128   16 + 8 + 3 · 16         32 + 8 + 2 · 16
///     256   32 + 8 + 4 ·  8         64 + 8 + 4 ·  8
///     512   64 + 8 + 5 · 16        128 + 8 + 3 ·  8
template <int head_width, int own_operands>
struct Blocking {
  static constexpr unsigned panels = head_width / panel_columns;
  static constexpr int warp_columns = head_width <= 256 ? 2 : 4;
  static constexpr int threads = warp_rows * warp_columns * warp_size;
  static constexpr int blocks = 256 / threads;  // that a multiprocessor's registers are enough for

  static constexpr unsigned step_panels = head_width == 128 || (head_width == 512 && own_operands == 1) ? 2 : 1;
  static constexpr unsigned steps_of_product = panels / step_panels;
  static constexpr unsigned steps_of_tile = (own_operands + 1) * steps_of_product;
  static constexpr unsigned stages = stages_of(head_width, own_operands);
  static_assert(stages - 1 <= steps_of_tile, "numbers of streamed rows are kept of two tiles");

  static constexpr int own_bytes = own_operands * panels * panel_bytes;
  static constexpr int stage_bytes = step_panels * panel_bytes;
  static constexpr int numbers = 4 * tile_rows;  // floats
  static constexpr int shared_bytes = own_bytes + panel_bytes + stages * stage_bytes + numbers * 4;
};

/// Consecutive rows of a head of bf16 tensors [T, heads, width], in which they are in the same place; 64 of them are
/// less than 2³² elements apart.
struct HeadRows {
  std::int64_t begin;  // element
  unsigned stride, count;
};

/// What a block streams: rows of one head, or of the query heads that share keys, one head after the other.
struct Stream {
  const std::uint16_t *first, *second;
  HeadRows rows;  // of the first head
  unsigned heads;
  const float *lse, *mean;  // [heads, T] of streamed rows, or null: not needed
  unsigned numbers_begin, numbers_stride;
};

/// Where in a panel of 64 rows of 128 bytes the 16 bytes `unit` of a row are: rows are permuted so that eight
/// consecutive ones have the same unit in different banks.
__device__ inline int place_in_panel(int row, int unit) { return row * 128 + ((unit ^ row % 8) << 4); }

/// A warp's part of a tile of 64 · 64 numbers: 32 rows and a half or a quarter of the columns, of which a thread has
/// 4 rows and 8 or 4 columns.
template <int warps_of_row>
struct Part {
  static constexpr int warp_columns = warps_of_row;
  static constexpr int columns_of_warp = 64 / warp_columns, columns_of_thread = columns_of_warp / 4;

  float values[2][columns_of_warp / 8][4] = {};

  __device__ float& at(int row, int column) { return values[row / 2][column / 2][row % 2 * 2 + column % 2]; }

  /// body(number, row, column) for the thread's numbers.
  template <typename Body>
  __device__ void for_each(const Body& body) {
#pragma unroll
    for (int column = 0; column < columns_of_thread; ++column)
#pragma unroll
      for (int row = 0; row < rows_of_thread; ++row) body(at(row, column), row, column);
  }

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % warp_size; }
  __device__ static int warp_row() { return static_cast<int>(threadIdx.x) / (warp_size * warp_columns); }
  __device__ static int warp_column() { return static_cast<int>(threadIdx.x) / warp_size % warp_columns; }
  /// Where in the tile the thread's rows and columns are, whose first is at `first`.
  __device__ static int row_of(int row, int first = warp_row() * 32 + lane() / 4) { return first + row * 8; }
  __device__ static int column_of(int column, int first = warp_column() * columns_of_warp + lane() % 4 * 2) {
    return first + column / 2 * 8 + column % 2;
  }

  /// += x yᵀ for the 64 columns of two panels.
  __device__ void add_product(const std::byte* x, const std::byte* y) {
    const int row = warp_column() * columns_of_warp + lane() / 16 * 8 + lane() % 8;
    const int x_place = rematerialized(place_of_rows()), y_place = rematerialized(place_in_panel(row, lane() / 8 % 2));
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      std::uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) load_matrices(a[m], x + (x_place ^ 32 * k) + m * rows_16);
#pragma unroll
      for (int n = 0; n < columns_of_warp / 16; ++n) {
        std::uint32_t b[4];
        load_matrices(b, y + (y_place ^ 32 * k) + n * rows_16);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply_add(values[m][2 * n], a[m], b[0], b[1]);
          multiply_add(values[m][2 * n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  /// The weights of the warp's rows for all 64 columns, as operands.
  using Weights = std::uint32_t[4][2][4];
  __device__ static void load_weights(Weights& weights, const std::byte* panel) {
    const int place = rematerialized(place_of_rows());
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int m = 0; m < 2; ++m) load_matrices(weights[k][m], panel + (place ^ 32 * k) + m * rows_16);
  }

  /// += weights · y for the 64 rows of a panel.
  __device__ void add_weighted(const Weights& weights, const std::byte* y) {
    const int place = rematerialized(place_in_panel(lane() % 16, (warp_column() * columns_of_warp / 8) ^ lane() / 16));
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int n = 0; n < columns_of_warp / 16; ++n) {
        std::uint32_t b[4];
        load_matrices_transposed(b, y + (place ^ 32 * n) + k * rows_16);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          multiply_add(values[m][2 * n], weights[k][m], b[0], b[1]);
          multiply_add(values[m][2 * n + 1], weights[k][m], b[2], b[3]);
        }
      }
  }

  /// Writes factor(row) times the numbers to a panel, rounded to bf16.
  template <typename Factor>
  __device__ void store(std::byte* panel, const Factor& factor) {
    // Rows of a thread are the same modulo 8, so one exclusive or gives each of its units.
    const int place = rematerialized(place_in_panel(row_of(0), column_of(0) / 8) + lane() % 4 * 4);
#pragma unroll
    for (int row = 0; row < rows_of_thread; ++row)
#pragma unroll
      for (int column = 0; column < columns_of_thread; column += 2)
        *reinterpret_cast<std::uint32_t*>(panel + (place ^ column / 2 * 16) + row * 8 * 128) =
            pack_bf16(at(row, column) * factor(row), at(row, column + 1) * factor(row));
  }

 private:
  static constexpr int rows_16 = 16 * 128;  // bytes
  /// Of the lane's row among the warp's first 16, columns 0 … 7 or 8 … 15. Those 16 k further are at place ^ 32 k.
  __device__ static int place_of_rows() { return place_in_panel(warp_row() * 32 + lane() % 16, lane() / 16); }
};

/// A block's own rows and their sums. All functions are called by all threads.
template <int head_width, int own_operands>
class OwnRows {
 public:
  using Cut = Blocking<head_width, own_operands>;
  using Numbers = Part<Cut::warp_columns>;

  Numbers sums[Cut::panels];

  /// Begins to load the own rows of x, and of y if there are two operands, and what is streamed.
  __device__ OwnRows(const std::uint16_t* x, const std::uint16_t* y, const HeadRows& rows, const Stream& stream)
      : stream_(stream), tiles_(stream.heads * ((stream.rows.count + tile_rows - 1) / tile_rows)) {
#pragma unroll
    for (int i = 0; i < own_operands; ++i)
#pragma unroll 1
      for (unsigned panel = 0; panel < Cut::panels; ++panel)
        load_panel((i == 0 ? x : y) + rows.begin + panel * panel_columns, rows.stride, rows.count, own_panel(i, panel));
#pragma unroll 1
    for (unsigned stage = 0; stage < Cut::stages - 1; ++stage) load_ahead(stage);
  }

  /// For each tile of streamed rows: weigh(products, first row, numbers) makes weights of products[0] = own · firstᵀ
  /// (and products[1] = other own · secondᵀ), which are then added to the sums. `numbers` are lse [64] and mean [64] of
  /// the tile's rows.
  template <typename Weigh>
  __device__ void for_each_tile(const Weigh& weigh) {
    unsigned row = 0;
#pragma unroll 1
    for (unsigned tile = 0; tile < tiles_; ++tile) {
      Numbers products[own_operands];
#pragma unroll
      for (int i = 0; i < own_operands; ++i)
#pragma unroll 1
        for (unsigned panel = 0; panel < Cut::panels; panel += Cut::step_panels) {
          const std::byte* const step = next_step();
#pragma unroll
          for (unsigned p = 0; p < Cut::step_panels; ++p)
            products[i].add_product(own_panel(i, panel + p), step + p * panel_bytes);
        }
      weigh(products, static_cast<int>(row), numbers_of(tile));
      products[0].store(weights(), [](int) { return 1.0f; });
      typename Numbers::Weights operands;
#pragma unroll
      for (unsigned panel = 0; panel < Cut::panels; panel += Cut::step_panels) {
        const std::byte* const step = next_step();
        if (panel == 0) Numbers::load_weights(operands, weights());
#pragma unroll
        for (unsigned p = 0; p < Cut::step_panels; ++p) sums[panel + p].add_weighted(operands, step + p * panel_bytes);
      }
      row = row + tile_rows < stream_.rows.count ? row + tile_rows : 0;
    }
  }

  /// Writes factor(row) times the sums to the own rows of a tensor, through the memory of the first own operand so that
  /// 16 bytes are written at a time.
  template <typename Factor>
  __device__ void store(std::uint16_t* to, const HeadRows& rows, const Factor& factor) {
    wait_for_copies<0>();
    __syncthreads();
#pragma unroll
    for (unsigned panel = 0; panel < Cut::panels; ++panel) sums[panel].store(own_panel(0, panel), factor);
    __syncthreads();
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < rows.count * (head_width / 8); i += Cut::threads) {
      const unsigned row = i / (head_width / 8), unit = i % (head_width / 8);
      *reinterpret_cast<uint4*>(to + rows.begin + row * rows.stride + unit * 8) =
          *reinterpret_cast<const uint4*>(own_panel(0, unit / 8) + place_in_panel(row, unit % 8));
    }
  }

  /// Room for four numbers of each own row; only where none of streamed rows are loaded.
  __device__ static float* scratch() { return reinterpret_cast<float*>(stage_panel(Cut::stages, 0)); }

 private:
  __device__ static std::byte* own_panel(unsigned operand, unsigned panel) {
    return shared_memory<std::byte>() + (operand * Cut::panels + panel) * panel_bytes;
  }
  __device__ static std::byte* weights() { return shared_memory<std::byte>() + Cut::own_bytes; }
  __device__ static std::byte* stage_panel(unsigned stage, unsigned panel) {
    return weights() + panel_bytes + stage * Cut::stage_bytes + panel * panel_bytes;
  }
  /// Those of the tile before the last may be overwritten.
  __device__ static float* numbers_of(unsigned tile) { return scratch() + tile % 2 * (2 * tile_rows); }

  /// Begins to copy 64 columns of 64 rows, zero past the last row that exists.
  __device__ static void load_panel(const std::uint16_t* from, unsigned stride, unsigned rows, std::byte* to) {
    const unsigned thread = rematerialized(threadIdx.x), first = thread / 8, unit = thread % 8;
    to += place_in_panel(first, unit);
    from += unit * 8;
#pragma unroll
    for (int i = 0; i < tile_rows; i += Cut::threads / 8) {
      const unsigned row = first + i;
      copy_async<16>(to + i * 128, from + std::min(row, rows - 1) * stride, row < rows);
    }
  }

  __device__ void load_numbers() const {
    static_assert(Cut::threads >= 2 * tile_rows);
    const unsigned row = threadIdx.x % tile_rows, which = threadIdx.x / tile_rows;
    if (which >= 2) return;
    const bool exists = ahead_row_ + row < stream_.rows.count;
    const float* const from = (which == 0 ? stream_.lse : stream_.mean) + stream_.numbers_begin +
                              std::uint64_t{ahead_head_} * stream_.numbers_stride + ahead_row_;
    copy_async<4>(numbers_of(ahead_tile_) + which * tile_rows + row, from + (exists ? row : 0), exists);
  }

  /// Begins to load the step after those that are under way into a stage. A group of copies even where there is no
  /// more, so that groups count steps.
  __device__ void load_ahead(unsigned stage) {
    if (ahead_tile_ < tiles_) {
      const unsigned panel = ahead_step_ % Cut::steps_of_product * Cut::step_panels;
      const std::uint16_t* const from = (ahead_step_ / Cut::steps_of_product == 1 ? stream_.second : stream_.first) +
                                        stream_.rows.begin + std::uint64_t{ahead_row_} * stream_.rows.stride +
                                        ahead_head_ * head_width + panel * panel_columns;
#pragma unroll
      for (unsigned p = 0; p < Cut::step_panels; ++p)
        load_panel(from + p * panel_columns, stream_.rows.stride, stream_.rows.count - ahead_row_,
                   stage_panel(stage, p));
      if (ahead_step_ == 0 && stream_.lse != nullptr) load_numbers();
      if (++ahead_step_ == Cut::steps_of_tile) next_tile_ahead();
    }
    commit_copies();
  }
  __device__ void next_tile_ahead() {
    ahead_step_ = 0;
    ++ahead_tile_;
    ahead_row_ += tile_rows;
    if (ahead_row_ < stream_.rows.count) return;
    ahead_row_ = 0;
    ++ahead_head_;
  }

  /// The next step's panels, when they have arrived for all threads and none reads those of the step before any more.
  __device__ const std::byte* next_step() {
    wait_for_copies<Cut::stages - 2>();
    __syncthreads();
    load_ahead(stage_ == 0 ? Cut::stages - 1 : stage_ - 1);  // where the step before was
    const std::byte* const step = stage_panel(stage_, 0);
    stage_ = stage_ + 1 == Cut::stages ? 0 : stage_ + 1;
    return step;
  }

  Stream stream_;
  unsigned tiles_;      // of all heads
  unsigned stage_ = 0;  // of the next step
  // What is loaded next.
  unsigned ahead_head_ = 0, ahead_row_ = 0, ahead_step_ = 0, ahead_tile_ = 0;
};

inline constexpr float log2_of_e = 1.4426950408889634f, log_of_2 = 0.6931471805599453f;

/// A sequence of the table as the blocks of a grid [.., sequences, tiles] see it.
struct TiledSequence {
  int first, length;

  __device__ explicit TiledSequence(const SequenceTable& table)
      : first(static_cast<int>(table.offsets[blockIdx.y])),
        length(static_cast<int>(table.offsets[blockIdx.y + 1]) - first) {}
  __device__ Band band(const AttentionMask& mask) const { return {mask.from_row(first), length}; }
  /// The block's tile; the last tile belongs to the blocks that start first where `is_reversed`. Empty where the
  /// sequence has fewer.
  __device__ Range tile(bool is_reversed) const {
    const int count = (length + tile_rows - 1) / tile_rows, place = static_cast<int>(blockIdx.z);
    if (place >= count) return {0, 0};
    return Range{0, length}.part((is_reversed ? count - 1 - place : place) * tile_rows, tile_rows);
  }
  /// Rows of head `head` of tensors [T, heads, width].
  __device__ HeadRows rows(std::int64_t heads, unsigned head, int width, Range of) const {
    return {((first + of.begin) * heads + head) * width, static_cast<unsigned>(heads * width),
            static_cast<unsigned>(of.size())};
  }
};

/// Makes scores of keys that a query does not see -∞. Rows are queries and columns are keys, or the other way round.
template <bool rows_are_queries, typename Numbers>
__device__ void hide_unseen(Numbers& scores, const TiledSequence& sequence, const AttentionMask& mask, Range queries,
                            Range keys) {
  const Band band(mask.from_row(sequence.first), rematerialized(sequence.length));
  if (band.all_see_all(queries, keys)) return;
  const int first_row = rematerialized((rows_are_queries ? queries : keys).begin + Numbers::row_of(0));
  const int first_column = rematerialized((rows_are_queries ? keys : queries).begin + Numbers::column_of(0));
  scores.for_each([&](float& score, int i, int j) {
    const int row = Numbers::row_of(i, first_row), column = Numbers::column_of(j, first_column);
    if (!(rows_are_queries ? band.sees(row, column) : band.sees(column, row))) score = -INFINITY;
  });
}

/// The head sizes that the kernels on tensor cores are for: body(width) with the constant width.
template <typename Body>
void with_width(std::int64_t width, const Body& body) {
  switch (width) {
    case 64:
      return body(std::integral_constant<int, 64>());
    case 128:
      return body(std::integral_constant<int, 128>());
    case 256:
      return body(std::integral_constant<int, 256>());
    case 512:
      return body(std::integral_constant<int, 512>());
    default:
      MTP_ASSERT(!"a width for tensor cores");
  }
}

inline std::uint16_t* bf16_of(const Tensor& x) {
  auto* const data = static_cast<std::uint16_t*>(x.data<void>());
  MTP_ASSERT(reinterpret_cast<std::uintptr_t>(data) % 16 == 0);
  return data;
}

}  // namespace mtp::ops::cuda
