#include "mtp/ops/rope.h"

#include "frequencies.cuh"
#include "sequence_table.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;

/// A thread rotates n neighbouring pairs (i, i + half) of a head; `sign` -1 turns back.
template <int n>
__global__ void rotate_kernel(SequenceTable sequences, std::int64_t heads, std::int64_t half, Frequencies frequencies,
                              const std::int64_t* own, std::int64_t position_offset, float sign, Elements x,
                              Elements y) {
  const std::int64_t task = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const std::int64_t packs = half / n, row = sequences.first_row() + task / (heads * packs);
  if (row >= sequences.end_row()) return;
  const std::int64_t head = task / packs % heads, pair = task % packs * n;
  const std::int64_t position =
      (own != nullptr ? own[row] : row - sequences.offsets[sequences.of_row(row)]) + position_offset;
  const std::int64_t low_at = (row * heads + head) * 2 * half + pair;
  Pack<n> low = x.load<n>(low_at), high = x.load<n>(low_at + half);
  frequencies.rotate(low, high, pair, position, sign, x);
  y.store<n>(low_at, low);
  y.store<n>(low_at + half, high);
}

void rotate(Device& device, const Rope& rope, const Sequences& sequences, float sign, const Tensor& x,
            const Tensor& y) {
  const std::int64_t heads = x.size(1), half = x.size(2) / 2;
  const std::int64_t* const own = sequences.has_positions() ? sequences.positions().data<std::int64_t>() : nullptr;
  const Frequencies frequencies(rope);
  for_each_table(sequences, [&](const SequenceTable& table) {
    with_pack(is_packed({half}, {&x, &y}), [&](auto n) {
      const std::int64_t tasks = (table.end_row() - table.first_row()) * heads * (half / n());
      launch(device, rotate_kernel<n()>, blocks(ceil_div(tasks, threads)), threads, table, heads, half, frequencies,
             own, rope.position_offset, sign, Elements(x), Elements(y));
    });
  });
}

/// A thread rotates a pair (i, i + quarter) of half a head, by the row's x or its y.
__global__ void rotate_2d_kernel(std::int64_t rows, std::int64_t heads, std::int64_t quarter, Frequencies frequencies,
                                 const std::int64_t* positions, std::int64_t position_offset, float sign, Elements x,
                                 Elements y) {
  const std::int64_t task = static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x;
  const std::int64_t half = task / quarter, pair = task % quarter, row = half / (2 * heads), axis = half % 2;
  if (row >= rows) return;
  const std::int64_t low_at = half * 2 * quarter + pair;
  Pack<1> low = x.load<1>(low_at), high = x.load<1>(low_at + quarter);
  frequencies.rotate(low, high, pair, positions[axis * rows + row] + position_offset, sign, x);
  y.store<1>(low_at, low);
  y.store<1>(low_at + quarter, high);
}

void rotate_2d(Device& device, const Rope& rope, const Tensor& positions, float sign, const Tensor& x,
               const Tensor& y) {
  const std::int64_t rows = x.size(0), heads = x.size(1), quarter = x.size(2) / 4;
  launch(device, rotate_2d_kernel, blocks(ceil_div(x.elements() / 2, threads)), threads, rows, heads, quarter,
         Frequencies(rope), positions.data<const std::int64_t>(), rope.position_offset, sign, Elements(x), Elements(y));
}

}  // namespace

void rope_forward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& x, const Tensor& y) {
  rotate(device, rope, sequences, 1, x, y);
}

void rope_backward(Device& device, const Rope& rope, const Sequences& sequences, const Tensor& dy, const Tensor& dx) {
  rotate(device, rope, sequences, -1, dy, dx);
}

void rope_2d_forward(Device& device, const Rope& rope, const Tensor& positions, const Tensor& x, const Tensor& y) {
  rotate_2d(device, rope, positions, 1, x, y);
}

void rope_2d_backward(Device& device, const Rope& rope, const Tensor& positions, const Tensor& dy, const Tensor& dx) {
  rotate_2d(device, rope, positions, -1, dy, dx);
}

}  // namespace mtp::ops::cuda
