#include "loss.cuh"

#include "mtp/ops/embedding.h"
#include "mtp/ops/matmul.h"

namespace mtp::ops::cuda {

namespace {

__global__ void scatter_kernel(std::int64_t width, Elements x, const std::int64_t* rows, Elements y) {
  const std::int64_t from = blockIdx.x * width, to = rows[blockIdx.x] * width;
  for (std::int64_t i = threadIdx.x; i < width; i += row_threads) y.set(to + i, x[from + i]);
}

__global__ void sum_kernel(std::int64_t n, const double* losses, double* loss) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += row_threads) sum += losses[i];
  sum = reduce_block(sum, Sum());
  if (threadIdx.x == 0) *loss = sum;
}

__global__ void taught_by_kernel(std::int64_t n, std::int64_t teacher_rows_end, const std::int64_t* teacher_rows,
                                 const std::int64_t* rows, std::int64_t* taught_by) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * row_threads + threadIdx.x;
  if (i >= n) return;
  taught_by[i] = teacher_rows[rows[i]];
  if (taught_by[i] >= teacher_rows_end) __trap();
}

}  // namespace

Rows chosen_rows(const Device& device, const Tensor& values) {
  Rows all(static_cast<std::size_t>(values.elements())), rows;
  device.to_host(values, all);
  for (std::size_t t = 0; t < all.size(); ++t)
    if (all[t] >= 0) rows.push_back(static_cast<std::int64_t>(t));
  return rows;
}

Tensor gather_rows(Device& device, const Tensor& x, const Tensor& rows) {
  const Tensor y = device.empty({rows.elements(), x.size(1)}, x.dtype());
  ops::lookup_forward(device, x, rows, 1, y);
  return y;
}

void scatter_rows(Device& device, const Tensor& x, const Tensor& rows, const Tensor& y) {
  launch(device, scatter_kernel, blocks(rows.elements()), row_threads, x.size(1), Elements(x),
         rows.data<std::int64_t>(), Elements(y));
}

Tensor logits_of(Device& device, const Tensor& x, const Tensor& w) {
  const Tensor z = device.empty({x.size(0), w.size(0)});
  ops::linear_forward(device, x, w, z);
  return z;
}

Tensor teacher_logits(Device& device, const Teacher& teacher, const Tensor& teacher_rows, const Tensor& rows) {
  const std::int64_t n = rows.elements();
  const Tensor taught_by = device.empty({n}, DType::i64);
  launch(device, taught_by_kernel, blocks(ceil_div(n, row_threads)), row_threads, n, teacher.x.size(0),
         teacher_rows.data<std::int64_t>(), rows.data<std::int64_t>(), taught_by.data<std::int64_t>());
  return logits_of(device, gather_rows(device, teacher.x, taught_by), teacher.w);
}

void sum_losses(Device& device, const Tensor& losses, const Tensor& loss) {
  launch(device, sum_kernel, 1, row_threads, losses.elements(), losses.data<double>(), loss.data<double>());
}

}  // namespace mtp::ops::cuda
