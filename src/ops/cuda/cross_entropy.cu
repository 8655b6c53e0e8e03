#include "mtp/ops/cross_entropy.h"

#include "loss.cuh"
#include "mtp/ops/choice.h"
#include "mtp/ops/matmul.h"

namespace mtp::ops::cuda {

namespace {

/// A chunk's rows of logits and where their gradients go, which may be in their place; without gradients `dz` is empty.
struct ChunkOfLogits {
  std::int64_t vocabulary;
  const std::int64_t* rows;
  SoftCap cap;
  float gradient_scale;
  const float* z;
  Elements dz;
  double* losses;  // [T]
};

/// A block computes the loss of a row of the chunk and writes the gradient of its logits.
__global__ void label_loss_kernel(ChunkOfLogits chunk, const std::int64_t* labels) {
  const std::int64_t row = chunk.rows[blockIdx.x], label = labels[row], width = chunk.vocabulary;
  if (label >= width) __trap();
  const float* const products = chunk.z + blockIdx.x * width;
  const auto z = [&](std::int64_t i) { return chunk.cap(products[i]); };
  const float z_label = z(label);
  const Softmax softmax = softmax_of(width, z);
  if (threadIdx.x == 0) chunk.losses[row] = softmax.log_sum() - z_label;
  if (chunk.dz.empty()) return;
  const Elements dz = chunk.dz.from(blockIdx.x * width);
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < width; i += row_threads) {
    const float value = z(i), p = softmax(value) - (i == label ? 1.0f : 0.0f);
    dz.set(i, p * chunk.gradient_scale * chunk.cap.slope(value));
  }
}

/// The same against the softmax of the teacher's logits [n, V].
__global__ void distillation_loss_kernel(ChunkOfLogits chunk, SoftCap teacher_cap, const float* teacher) {
  const std::int64_t row = chunk.rows[blockIdx.x], width = chunk.vocabulary;
  const float *const products = chunk.z + blockIdx.x * width, *const teacher_products = teacher + blockIdx.x * width;
  const auto z = [&](std::int64_t i) { return chunk.cap(products[i]); };
  const auto teacher_z = [&](std::int64_t i) { return teacher_cap(teacher_products[i]); };
  const Softmax softmax = softmax_of(width, z), target = softmax_of(width, teacher_z);
  const double log_sum = softmax.log_sum();
  const Elements dz = chunk.dz.empty() ? chunk.dz : chunk.dz.from(blockIdx.x * width);
  double loss = 0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < width; i += row_threads) {
    const float value = z(i), p = target(teacher_z(i));
    loss += p * (log_sum - value);
    if (!dz.empty()) dz.set(i, (softmax(value) - p) * chunk.gradient_scale * chunk.cap.slope(value));
  }
  loss = reduce_block(loss, Sum());
  if (threadIdx.x == 0) chunk.losses[row] = loss;
}

/// The same, at another distance from it.
__global__ void distance_loss_kernel(ChunkOfLogits chunk, Distance distance, SoftCap teacher_cap,
                                     const float* teacher) {
  const std::int64_t row = chunk.rows[blockIdx.x], width = chunk.vocabulary;
  const float *const products = chunk.z + blockIdx.x * width, *const teacher_products = teacher + blockIdx.x * width;
  const auto z = [&](std::int64_t i) { return chunk.cap(products[i]); };
  const auto teacher_z = [&](std::int64_t i) { return teacher_cap(teacher_products[i]); };
  const Softmax softmax = softmax_of(width, z), target = softmax_of(width, teacher_z);
  const double log_sum = softmax.log_sum();
  Likeness own;
  for (std::int64_t i = threadIdx.x; i < width; i += row_threads) {
    const float value = z(i), p = target(teacher_z(i));
    own.add(p, softmax(value));
    own.cross_entropy += p * (log_sum - value);
  }
  const DistanceLoss loss(distance, sum_of_block(own));
  if (threadIdx.x == 0) chunk.losses[row] = loss.value();
  if (chunk.dz.empty()) return;
  const Elements dz = chunk.dz.from(blockIdx.x * width);
  for (std::int64_t i = threadIdx.x; i < width; i += row_threads) {
    const float value = z(i);
    dz.set(i, loss.gradient(target(teacher_z(i)), softmax(value)) * chunk.gradient_scale * chunk.cap.slope(value));
  }
}

/// A block finds the largest logit of a row of the chunk.
__global__ void choice_kernel(std::int64_t vocabulary, const float* z, const std::int64_t* rows,
                              std::int64_t* choices) {
  const float* const row = z + blockIdx.x * vocabulary;
  const std::int64_t best = best_of(
      vocabulary, 0, [&](std::int64_t i) { return row[i]; }, [](std::int64_t i) { return i; });
  if (threadIdx.x == 0) choices[rows[blockIdx.x]] = best;
}

/// The rows with `chosen` ≥ 0 in chunks: logits, losses and gradients. `run(chunk, rows)` queues the kernel that
/// computes the chunk's losses and gradients.
template <typename Run>
void project(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w, const Tensor& chosen,
             const Tensor& loss, const Tensor& dx, const Tensor& dw, const Run& run) {
  const std::int64_t vocabulary = w.size(0);
  const Tensor losses = device.zeros({x.size(0)}, DType::f64);
  if (!dx.empty()) device.set_zero(dx);
  for_each_chunk(device, chosen_rows(device, chosen), vocabulary, [&](const Tensor& rows) {
    const Tensor chunk_x = gather_rows(device, x, rows), z = logits_of(device, chunk_x, w);
    Tensor dz;
    if (!dx.empty() || !dw.empty()) dz = w.dtype() == DType::f32 ? z : device.empty(z.shape(), w.dtype());
    run(ChunkOfLogits{vocabulary,
                      rows.data<std::int64_t>(),
                      {ce.soft_cap},
                      ce.gradient_scale,
                      z.f32(),
                      Elements(dz),
                      losses.data<double>()},
        rows);
    if (!dx.empty()) {
      const Tensor chunk_dx = device.empty(chunk_x.shape(), dx.dtype());
      ops::linear_backward_input(device, dz, w, chunk_dx);
      scatter_rows(device, chunk_dx, rows, dx);
    }
    if (!dw.empty()) ops::linear_backward_weight(device, dz, chunk_x, dw);
  });
  sum_losses(device, losses, loss);
}

}  // namespace

void projected_cross_entropy(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                             const Tensor& labels, const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  project(device, ce, x, w, labels, loss, dx, dw, [&](const ChunkOfLogits& chunk, const Tensor& rows) {
    launch(device, label_loss_kernel, blocks(rows.elements()), row_threads, chunk, labels.data<std::int64_t>());
  });
}

void projected_distillation(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                            const Teacher& teacher, const Tensor& teacher_rows, const Tensor& loss, const Tensor& dx,
                            const Tensor& dw) {
  project(device, ce, x, w, teacher_rows, loss, dx, dw, [&](const ChunkOfLogits& chunk, const Tensor& rows) {
    const Tensor logits = teacher_logits(device, teacher, teacher_rows, rows);
    if (teacher.distance == Distance::cross_entropy)
      launch(device, distillation_loss_kernel, blocks(rows.elements()), row_threads, chunk, SoftCap{teacher.soft_cap},
             logits.f32());
    else
      launch(device, distance_loss_kernel, blocks(rows.elements()), row_threads, chunk, teacher.distance,
             SoftCap{teacher.soft_cap}, logits.f32());
  });
}

void projected_choice(Device& device, const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& choices) {
  choose(device, x, w, labels, choices, [&](const Tensor& chunk_x, const Tensor& rows) {
    const Tensor z = logits_of(device, chunk_x, w);
    launch(device, choice_kernel, blocks(rows.elements()), row_threads, w.size(0), z.f32(), rows.data<std::int64_t>(),
           choices.data<std::int64_t>());
  });
}

}  // namespace mtp::ops::cuda
