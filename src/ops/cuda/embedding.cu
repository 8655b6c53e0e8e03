#include "mtp/ops/embedding.h"

#include "matches.cuh"
#include "sequence_table.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 128;

template <int n>
__global__ void lookup_kernel(std::int64_t vocabulary, std::int64_t width, Elements table, const std::int64_t* ids,
                              float factor, Elements y) {
  const std::int64_t row = blockIdx.x, id = ids[row];
  if (id < 0 || id >= vocabulary) __trap();
  for (std::int64_t i = threadIdx.x * n; i < width; i += threads * n) {
    Pack<n> pack = table.load<n>(id * width + i);
#pragma unroll
    for (int j = 0; j < n; ++j) pack.values[j] *= factor;
    y.store<n>(row * width + i, pack);
  }
}

template <int n>
__global__ void put_rows_kernel(std::int64_t rows_of_y, std::int64_t width, Elements x, const std::int64_t* rows,
                                Elements y) {
  const std::int64_t from = blockIdx.x, to = rows[from];
  if (to < 0 || to >= rows_of_y) __trap();
  for (std::int64_t i = threadIdx.x * n; i < width; i += threads * n)
    y.store<n>(to * width + i, x.load<n>(from * width + i));
}

/// A block of threads of the first row with an id adds all rows with that id, in their order; a thread owns columns.
__global__ void lookup_backward_kernel(std::int64_t rows, std::int64_t vocabulary, std::int64_t width, Elements dy,
                                       const std::int64_t* ids, float factor, std::int64_t skip, float* dtable) {
  const std::int64_t row = blockIdx.x, id = ids[row];
  if (id == skip) return;
  if (id < 0 || id >= vocabulary) __trap();
  int seen_before = 0;
  for (std::int64_t i = threadIdx.x; i < row; i += threads) seen_before |= ids[i] == id;
  if (reduce_block(seen_before, Sum()) > 0) return;

  const std::int64_t column = static_cast<std::int64_t>(blockIdx.y) * threads + threadIdx.x;
  float sum = column < width ? dtable[id * width + column] : 0.0f;
  for_each_match<threads>(
      row, rows, [&](std::int64_t i) { return ids[i] == id; },
      [&](std::int64_t i) {
        if (column < width) sum += dy[i * width + column] * factor;
      });
  if (column < width) dtable[id * width + column] = sum;
}

/// y's row t is x's row t + by of the same sequence where there is one, else `fill`, which is zero where it is empty.
template <int n>
__global__ void shift_kernel(SequenceTable sequences, std::int64_t by, std::int64_t width, Elements x, Elements fill,
                             Elements y) {
  const std::int64_t row = sequences.first_row() + blockIdx.x, source = row + by;
  const int b = sequences.of_row(row);
  const bool inside = source >= sequences.offsets[b] && source < sequences.offsets[b + 1];
  for (std::int64_t i = threadIdx.x * n; i < width; i += threads * n) {
    Pack<n> pack = {};
    if (inside)
      pack = x.load<n>(source * width + i);
    else if (!fill.empty())
      pack = fill.load<n>(i);
    y.store<n>(row * width + i, pack);
  }
}

void shift(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& x, const Tensor& fill,
           const Tensor& y) {
  const std::int64_t width = x.size(1);
  for_each_table(sequences, [&](const SequenceTable& table) {
    with_pack(is_packed({width}, {&x, &fill, &y}), [&](auto n) {
      launch(device, shift_kernel<n()>, blocks(table.end_row() - table.first_row()), threads, table, by, width,
             Elements(x), Elements(fill), Elements(y));
    });
  });
}

}  // namespace

void lookup_forward(Device& device, const Tensor& table, const Tensor& ids, float factor, const Tensor& y) {
  const std::int64_t width = table.size(1), rows = ids.elements();
  with_pack(is_packed({width}, {&table, &y}), [&](auto n) {
    launch(device, lookup_kernel<n()>, blocks(rows), threads, table.size(0), width, Elements(table),
           ids.data<std::int64_t>(), factor, Elements(y));
  });
}

void lookup_backward(Device& device, const Tensor& dy, const Tensor& ids, float factor, std::int64_t skip,
                     const Tensor& dtable) {
  const std::int64_t width = dtable.size(1), rows = ids.elements();
  launch(device, lookup_backward_kernel, dim3(blocks(rows), blocks(ceil_div(width, threads))), threads, rows,
         dtable.size(0), width, Elements(dy), ids.data<std::int64_t>(), factor, skip, dtable.f32());
}

void put_rows(Device& device, const Tensor& x, const Tensor& rows, const Tensor& y) {
  const std::int64_t width = x.size(1);
  with_pack(is_packed({width}, {&x, &y}), [&](auto n) {
    launch(device, put_rows_kernel<n()>, blocks(x.size(0)), threads, y.size(0), width, Elements(x),
           rows.data<std::int64_t>(), Elements(y));
  });
}

void shift_rows_forward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& x,
                        const Tensor& fill, const Tensor& y) {
  shift(device, sequences, by, x, fill, y);
}

void shift_rows_backward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& dy,
                         const Tensor& dx) {
  shift(device, sequences, -by, dy, {}, dx);
}

}  // namespace mtp::ops::cuda
