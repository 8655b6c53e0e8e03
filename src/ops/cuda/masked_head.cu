#include "loss.cuh"
#include "matches.cuh"
#include "mtp/ops/choice.h"
#include "mtp/ops/rowwise.h"
#include "sequence_table.cuh"
#include "shared_memory.cuh"

namespace mtp::ops::cuda {

namespace {

/// What the rows of a matrix x [n, H] select, as kernels see it.
struct Selection {
  std::int64_t centroids, top_k, tokens_per_centroid;
  const std::int64_t* ordering;
  std::int32_t* chosen;  // [n, top_k]: centroids of each row, best first
  float* scores;         // [n, top_k · V/C], or what a loss put in their place

  __host__ __device__ std::int64_t width() const { return top_k * tokens_per_centroid; }
  __device__ float* row(std::int64_t i) const { return scores + i * width(); }
  /// The token of row i's j-th score.
  __device__ std::int64_t token(std::int64_t i, std::int64_t j) const {
    return ordering[chosen[i * top_k + j / tokens_per_centroid] * tokens_per_centroid + j % tokens_per_centroid];
  }
};

/// A block takes the largest of a row's centroid logits again and again.
__global__ void top_k_kernel(Selection selection, const float* logits) {
  float* const z = shared_memory<float>();
  for (std::int64_t c = threadIdx.x; c < selection.centroids; c += row_threads)
    z[c] = logits[blockIdx.x * selection.centroids + c];
  __syncthreads();
  for (std::int64_t slot = 0; slot < selection.top_k; ++slot) {
    const std::int64_t best = best_of(
        selection.centroids, 0, [&](std::int64_t c) { return z[c]; }, [](std::int64_t c) { return c; });
    if (threadIdx.x == 0) {
      selection.chosen[blockIdx.x * selection.top_k + slot] = static_cast<std::int32_t>(best);
      z[best] = NAN;  // is never the largest
    }
    __syncthreads();
  }
}

/// A block scores the tokens of one centroid of a row, a warp one token at a time.
__global__ void score_kernel(Selection selection, std::int64_t width, Elements x, Elements w) {
  const std::int64_t row = blockIdx.x, begin = blockIdx.y * selection.tokens_per_centroid;
  const std::int64_t end = begin + selection.tokens_per_centroid, lane = threadIdx.x % warp_size;
  for (std::int64_t j = begin + threadIdx.x / warp_size; j < end; j += row_threads / warp_size) {
    const std::int64_t token = selection.token(row, j);
    float sum = 0;
    for (std::int64_t i = lane; i < width; i += warp_size) sum = fmaf(x[row * width + i], w[token * width + i], sum);
    sum = reduce_warp(sum, Sum());
    if (lane == 0) selection.row(row)[j] = sum;
  }
}

__global__ void least_kernel(Selection selection, float* least) {
  float own = INFINITY;
  for (std::int64_t j = threadIdx.x; j < selection.width(); j += row_threads)
    own = Least()(own, selection.row(blockIdx.x)[j]);
  own = reduce_block(own, Least());
  if (threadIdx.x == 0) least[blockIdx.x] = own;
}

/// A block per sequence: the logit of what its rows do not select, written to each of them.
__global__ void unselected_kernel(SequenceTable sequences, const float* least, float* unselected) {
  const std::int64_t begin = sequences.offsets[blockIdx.x], end = sequences.offsets[blockIdx.x + 1];
  float own = INFINITY;
  for (std::int64_t t = begin + threadIdx.x; t < end; t += row_threads) own = Least()(own, least[t]);
  own = reduce_block(own, Least());
  for (std::int64_t t = begin + threadIdx.x; t < end; t += row_threads) unselected[t] = own - 1.0f;
}

/// The softmax of a row over the whole vocabulary, by a block.
__device__ Softmax softmax_of_row(const Selection& selection, std::int64_t row, float unselected) {
  const float* const z = selection.row(row);
  Softmax softmax = softmax_of(selection.width(), [&](std::int64_t j) { return z[j]; });
  softmax.add(unselected, selection.centroids * selection.tokens_per_centroid - selection.width());
  return softmax;
}

/// A block computes the loss of a row and replaces its scores by their gradient: zero where it has no label.
__global__ void label_loss_kernel(Selection selection, float gradient_scale, const std::int64_t* labels,
                                  const float* unselected, double* losses) {
  const std::int64_t row = blockIdx.x, label = labels[row];
  float* const z = selection.row(row);
  if (label < 0) {
    for (std::int64_t j = threadIdx.x; j < selection.width(); j += row_threads) z[j] = 0;
    return;
  }
  if (label >= selection.centroids * selection.tokens_per_centroid) __trap();
  const Softmax softmax = softmax_of_row(selection, row, unselected[row]);
  int selected = INT32_MAX;
  for (std::int64_t j = threadIdx.x; j < selection.width(); j += row_threads)
    if (selection.token(row, j) == label) selected = static_cast<int>(j);
  selected = reduce_block(selected, Least());
  const float z_label = selected == INT32_MAX ? unselected[row] : z[selected];
  __syncthreads();  // all have read it
  if (threadIdx.x == 0) losses[row] = softmax.log_sum() - z_label;
  for (std::int64_t j = threadIdx.x; j < selection.width(); j += row_threads)
    z[j] = gradient_scale * (softmax(z[j]) - (j == selected ? 1.0f : 0.0f));
}

/// The same for a chunk of rows against the softmax p of the teacher's logits [n, V]: Σ p (log_sum - z), where z is a
/// constant but for the selected tokens.
__global__ void distillation_loss_kernel(Selection selection, float gradient_scale, const std::int64_t* rows,
                                         SoftCap teacher_cap, const float* teacher, const float* unselected,
                                         double* losses) {
  const std::int64_t row = rows[blockIdx.x], vocabulary = selection.centroids * selection.tokens_per_centroid;
  const float constant = unselected[row];
  const Softmax softmax = softmax_of_row(selection, row, constant);
  const auto teacher_z = [&](std::int64_t i) { return teacher_cap(teacher[blockIdx.x * vocabulary + i]); };
  const Softmax target = softmax_of(vocabulary, teacher_z);
  float* const z = selection.row(row);
  double above = 0;
  for (std::int64_t j = threadIdx.x; j < selection.width(); j += row_threads) {
    const float p = target(teacher_z(selection.token(row, j)));
    above += static_cast<double>(p) * (z[j] - constant);
    z[j] = gradient_scale * (softmax(z[j]) - p);
  }
  above = reduce_block(above, Sum());
  if (threadIdx.x == 0) losses[row] = softmax.log_sum() - constant - above;
}

/// The same, at another distance from it.
__global__ void distance_loss_kernel(Selection selection, Distance distance, float gradient_scale,
                                     const std::int64_t* rows, SoftCap teacher_cap, const float* teacher,
                                     const float* unselected, double* losses) {
  const std::int64_t row = rows[blockIdx.x], vocabulary = selection.centroids * selection.tokens_per_centroid;
  const float constant = unselected[row];
  const Softmax softmax = softmax_of_row(selection, row, constant);
  const auto teacher_z = [&](std::int64_t i) { return teacher_cap(teacher[blockIdx.x * vocabulary + i]); };
  const Softmax target = softmax_of(vocabulary, teacher_z);
  float* const z = selection.row(row);
  Likeness own;
  for (std::int64_t i = threadIdx.x; i < vocabulary; i += row_threads) own.add(target(teacher_z(i)), softmax(constant));
  for (std::int64_t j = threadIdx.x; j < selection.width(); j += row_threads) {
    const float p = target(teacher_z(selection.token(row, j)));
    own.add(p, softmax(constant), -1);
    own.add(p, softmax(z[j]));
    own.cross_entropy -= static_cast<double>(p) * (z[j] - constant);
  }
  Likeness all = sum_of_block(own);
  all.cross_entropy += softmax.log_sum() - constant;
  const DistanceLoss loss(distance, all);
  for (std::int64_t j = threadIdx.x; j < selection.width(); j += row_threads)
    z[j] = gradient_scale * loss.gradient(target(teacher_z(selection.token(row, j))), softmax(z[j]));
  if (threadIdx.x == 0) losses[row] = loss.value();
}

__global__ void set_zero_without_kernel(Selection selection, const std::int64_t* chosen) {
  if (chosen[blockIdx.x] >= 0) return;
  for (std::int64_t j = threadIdx.x; j < selection.width(); j += row_threads) selection.row(blockIdx.x)[j] = 0;
}

/// A block sums a row's gradient over its tokens in order; a thread owns columns.
__global__ void backward_x_kernel(Selection selection, std::int64_t width, Elements w, Elements dx) {
  const std::int64_t row = blockIdx.x;
  const float* const dz = selection.row(row);
  for (std::int64_t i = threadIdx.x; i < width; i += row_threads) {
    float sum = 0;
    for (std::int64_t j = 0; j < selection.width(); ++j) sum = fmaf(dz[j], w[selection.token(row, j) * width + i], sum);
    dx.set(row * width + i, sum);
  }
}

/// The places (row · top_k + slot) where a centroid was chosen by rows with a label, in their order.
struct Members {
  std::int64_t most;    // of a centroid
  std::int32_t* place;  // [C, most]
  std::int32_t* count;  // [C]
};

/// A block per centroid.
__global__ void members_kernel(Selection selection, std::int64_t rows, const std::int64_t* labels, Members members) {
  const std::int64_t centroid = blockIdx.x;
  std::int64_t count = 0;
  const auto is_member = [&](std::int64_t place) {
    return selection.chosen[place] == centroid && labels[place / selection.top_k] >= 0;
  };
  for_each_match<row_threads>(0, rows * selection.top_k, is_member, [&](std::int64_t place) {
    if (count == members.most) return;  // only where scores are no numbers: a row has chosen a centroid twice
    if (threadIdx.x == 0) members.place[centroid * members.most + count] = static_cast<std::int32_t>(place);
    ++count;
  });
  if (threadIdx.x == 0) members.count[centroid] = static_cast<std::int32_t>(count);
}

/// A block adds one token's gradient over the rows that selected it, in their order; a thread owns columns.
__global__ void backward_w_kernel(Selection selection, std::int64_t width, Members members, Elements x, float* dw) {
  const std::int64_t centroid = blockIdx.x / selection.tokens_per_centroid;
  if (members.count[centroid] == 0) return;
  const std::int64_t j = blockIdx.x % selection.tokens_per_centroid, token = selection.ordering[blockIdx.x];
  const std::int32_t* const places = members.place + centroid * members.most;
  for (std::int64_t i = threadIdx.x; i < width; i += row_threads) {
    float sum = 0;
    for (std::int64_t k = 0; k < members.count[centroid]; ++k) {
      const std::int64_t row = places[k] / selection.top_k, slot = places[k] % selection.top_k;
      sum = fmaf(selection.row(row)[slot * selection.tokens_per_centroid + j], x[row * width + i], sum);
    }
    dw[token * width + i] += sum;
  }
}

/// `rows`: where each row's choice goes; null: all rows, in order.
__global__ void masked_choice_kernel(Selection selection, const std::int64_t* rows, std::int64_t* choices) {
  const float* const z = selection.row(blockIdx.x);
  const std::int64_t best = best_of(
      selection.width(), 0, [&](std::int64_t j) { return z[j]; },
      [&](std::int64_t j) { return selection.token(blockIdx.x, j); });
  if (threadIdx.x == 0) choices[rows != nullptr ? rows[blockIdx.x] : blockIdx.x] = best;
}

/// The scores of rows x [n, H].
class MaskedScores {
 public:
  /// `logits` [n, C]: of the centroids.
  MaskedScores(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w, const Tensor& logits)
      : device_(device), x_(x), w_(w) {
    const std::int64_t n = x.size(0), centroids = head.centroids.size(0), tokens = w.size(0) / centroids;
    chosen_ = device.empty({n, head.top_k}, DType::i32);
    scores_ = device.empty({n, head.top_k * tokens});
    selection_ = {centroids,    head.top_k, tokens, head.ordering.data<std::int64_t>(), chosen_.data<std::int32_t>(),
                  scores_.f32()};
    mtp::launch(device, top_k_kernel, blocks(n), row_threads, centroids * sizeof(float), selection_, logits.f32());
    launch(device, score_kernel, dim3(blocks(n), blocks(head.top_k)), row_threads, selection_, x.size(1), Elements(x),
           Elements(w));
  }

  MaskedScores(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w)
      : MaskedScores(device, head, x, w, logits_of(device, x, head.centroids)) {}

  const Selection& selection() const { return selection_; }

  /// [n]: of each row, the logit of every token that its sequence does not select.
  Tensor unselected(const Sequences& sequences) const {
    const Tensor least = device_.empty({x_.size(0)}), unselected = device_.empty({x_.size(0)});
    launch(device_, least_kernel, blocks(x_.size(0)), row_threads, selection_, least.f32());
    for_each_table(sequences, [&](const SequenceTable& table) {
      launch(device_, unselected_kernel, blocks(table.count), row_threads, table, least.f32(), unselected.f32());
    });
    return unselected;
  }

  // With gradients in place of the scores, zero in rows without a label:
  void backward_x(const Tensor& dx) const {
    launch(device_, backward_x_kernel, blocks(x_.size(0)), row_threads, selection_, x_.size(1), Elements(w_),
           Elements(dx));
  }
  void backward_w(const Tensor& labels, const Tensor& dw) const {
    const std::int64_t n = x_.size(0), centroids = selection_.centroids;
    const Tensor places = device_.empty({centroids, n}, DType::i32), counts = device_.empty({centroids}, DType::i32);
    const Members members{n, places.data<std::int32_t>(), counts.data<std::int32_t>()};
    launch(device_, members_kernel, blocks(centroids), row_threads, selection_, n, labels.data<std::int64_t>(),
           members);
    launch(device_, backward_w_kernel, blocks(w_.size(0)), row_threads, selection_, x_.size(1), members, Elements(x_),
           dw.f32());
  }

 private:
  Device& device_;
  const Tensor x_, w_;
  Tensor chosen_, scores_;
  Selection selection_;
};

/// `run(scores, unselected, losses)` queues the kernels that compute the losses [T] of the rows with `chosen` ≥ 0 and
/// replace all scores by their gradients.
template <typename Run>
void score_sequences(Device& device, const MaskedHead& head, const Sequences& sequences, const Tensor& x,
                     const Tensor& w, const Tensor& chosen, const Tensor& loss, const Tensor& dx, const Tensor& dw,
                     const Run& run) {
  const MaskedScores scores(device, head, x, w);
  const Tensor unselected = scores.unselected(sequences), losses = device.zeros({x.size(0)}, DType::f64);
  run(scores.selection(), unselected.f32(), losses.data<double>());
  if (!dx.empty()) scores.backward_x(dx);
  if (!dw.empty()) scores.backward_w(chosen, dw);
  sum_losses(device, losses, loss);
}

}  // namespace

void masked_cross_entropy(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                          const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& loss, const Tensor& dx,
                          const Tensor& dw) {
  score_sequences(device, head, sequences, x, w, labels, loss, dx, dw,
                  [&](const Selection& selection, const float* unselected, double* losses) {
                    launch(device, label_loss_kernel, blocks(x.size(0)), row_threads, selection, ce.gradient_scale,
                           labels.data<std::int64_t>(), unselected, losses);
                  });
}

void masked_distillation(Device& device, const CrossEntropy& ce, const MaskedHead& head, const Sequences& sequences,
                         const Tensor& x, const Tensor& w, const Teacher& teacher, const Tensor& teacher_rows,
                         const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  score_sequences(device, head, sequences, x, w, teacher_rows, loss, dx, dw,
                  [&](const Selection& selection, const float* unselected, double* losses) {
                    launch(device, set_zero_without_kernel, blocks(x.size(0)), row_threads, selection,
                           teacher_rows.data<std::int64_t>());
                    for_each_chunk(device, chosen_rows(device, teacher_rows), w.size(0), [&](const Tensor& rows) {
                      const Tensor logits = teacher_logits(device, teacher, teacher_rows, rows);
                      if (teacher.distance == Distance::cross_entropy)
                        launch(device, distillation_loss_kernel, blocks(rows.elements()), row_threads, selection,
                               ce.gradient_scale, rows.data<std::int64_t>(), SoftCap{teacher.soft_cap}, logits.f32(),
                               unselected, losses);
                      else
                        launch(device, distance_loss_kernel, blocks(rows.elements()), row_threads, selection,
                               teacher.distance, ce.gradient_scale, rows.data<std::int64_t>(),
                               SoftCap{teacher.soft_cap}, logits.f32(), unselected, losses);
                    });
                  });
}

void masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w, const Tensor& labels,
                   const Tensor& choices) {
  choose(device, x, w, labels, choices, [&](const Tensor& chunk_x, const Tensor& rows) {
    const MaskedScores scores(device, head, chunk_x, w);
    launch(device, masked_choice_kernel, blocks(rows.elements()), row_threads, scores.selection(),
           rows.data<std::int64_t>(), choices.data<std::int64_t>());
  });
}

void rowwise_masked_choice(Device& device, const MaskedHead& head, const Tensor& x, const Tensor& w,
                           const Tensor& choices) {
  const Tensor logits = device.empty({x.size(0), head.centroids.size(0)});
  ops::rowwise_linear(device, x, {head.centroids}, {logits});
  const MaskedScores scores(device, head, x, w, logits);
  const std::int64_t* const all_rows = nullptr;
  launch(device, masked_choice_kernel, blocks(x.size(0)), row_threads, scores.selection(), all_rows,
         choices.data<std::int64_t>());
}

}  // namespace mtp::ops::cuda
