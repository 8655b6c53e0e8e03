#include "mtp/ops/cross_entropy.h"

#include "loss.h"
#include "mtp/ops/choice.h"
#include "mtp/ops/matmul.h"

namespace mtp::ops::cpu {

namespace {

/// From the gradient of a capped logit z to that of the product it came from: d cap(u) / du = 1 - (z / cap)².
class Slope {
 public:
  explicit Slope(const CrossEntropy& ce)
      : scale_(ce.gradient_scale), inverse_cap_(ce.soft_cap > 0 ? 1.0f / ce.soft_cap : 0.0f) {}
  float operator()(float z) const { return scale_ * (1.0f - (z * inverse_cap_) * (z * inverse_cap_)); }

 private:
  float scale_, inverse_cap_;
};

/// The loss of one row; its logits z are replaced by their gradient.
double label_loss(const CrossEntropy& ce, std::int64_t label, std::span<float> z) {
  const cpu::Softmax softmax(z);
  const Slope slope(ce);
  const float z_label = z[label];
  float* values = z.data();
#pragma omp simd
  for (std::size_t i = 0; i < z.size(); ++i) values[i] = softmax(values[i]) * slope(values[i]);
  values[label] -= slope(z_label);
  return softmax.log_sum() - z_label;
}

/// The same against the softmax of `teacher`.
double distillation_loss(const CrossEntropy& ce, std::span<const float> teacher, std::span<float> z) {
  const cpu::Softmax softmax(z), target(teacher);
  const Slope slope(ce);
  const double log_sum = softmax.log_sum();
  const float* t = teacher.data();
  float* values = z.data();
  double loss = 0;
#pragma omp simd reduction(+ : loss)
  for (std::size_t i = 0; i < z.size(); ++i) {
    const float p = target(t[i]);
    loss += p * (log_sum - values[i]);
    values[i] = (softmax(values[i]) - p) * slope(values[i]);
  }
  return loss;
}

/// The same, at another distance from it.
double distance_loss(Distance distance, const CrossEntropy& ce, std::span<const float> teacher, std::span<float> z) {
  const cpu::Softmax softmax(z), target(teacher);
  const Slope slope(ce);
  Likeness likeness;
  for (std::size_t i = 0; i < z.size(); ++i) {
    const float p = target(teacher[i]);
    likeness.add(p, softmax(z[i]));
    likeness.cross_entropy += p * (softmax.log_sum() - z[i]);
  }
  const DistanceLoss loss(distance, likeness);
  for (std::size_t i = 0; i < z.size(); ++i) z[i] = loss.gradient(target(teacher[i]), softmax(z[i])) * slope(z[i]);
  return loss.value();
}

/// The chosen rows in chunks: logits, losses and gradients. `losses_of(rows)` gives the function (i, z) that computes
/// the loss of the i-th of these rows and replaces its logits z by their gradient.
template <typename LossesOf>
void project(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w, const cpu::Rows& rows,
             const Tensor& loss, const Tensor& dx, const Tensor& dw, const LossesOf& losses_of) {
  const std::int64_t vocabulary = w.size(0);
  double sum = 0;
  if (!dx.empty()) device.set_zero(dx);
  cpu::for_each_chunk(static_cast<std::int64_t>(rows.size()), vocabulary, [&](std::int64_t begin, std::int64_t end) {
    const cpu::RowSpan chunk(rows.data() + begin, rows.data() + end);
    const auto row_loss = losses_of(chunk);
    const Tensor chunk_x = cpu::gather_rows(device, x, chunk);
    const Tensor z = cpu::capped_logits(device, chunk_x, w, ce.soft_cap);
    sum += cpu::sum_of_losses(device, end - begin, [&](std::int64_t i) {
      return row_loss(i, std::span(z.f32() + i * vocabulary, vocabulary));
    });
    if (!dx.empty()) {
      const Tensor chunk_dx = device.empty(chunk_x.shape());
      linear_backward_input(device, z, w, chunk_dx);
      cpu::scatter_rows(chunk_dx, chunk, dx);
    }
    if (!dw.empty()) linear_backward_weight(device, z, chunk_x, dw);
  });
  loss.data<double>()[0] = sum;
}

}  // namespace

void projected_cross_entropy(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                             const Tensor& labels, const Tensor& loss, const Tensor& dx, const Tensor& dw) {
  const cpu::Rows rows = cpu::chosen_rows(labels, 0, x.size(0));
  project(device, ce, x, w, rows, loss, dx, dw, [&](cpu::RowSpan chunk) {
    return [&, chunk](std::int64_t i, std::span<float> z) {
      const std::int64_t label = labels.data<std::int64_t>()[chunk[i]];
      MTP_ASSERT(label < w.size(0));
      return label_loss(ce, label, z);
    };
  });
}

void projected_distillation(Device& device, const CrossEntropy& ce, const Tensor& x, const Tensor& w,
                            const Teacher& teacher, const Tensor& teacher_rows, const Tensor& loss, const Tensor& dx,
                            const Tensor& dw) {
  const cpu::Rows rows = cpu::chosen_rows(teacher_rows, 0, x.size(0));
  project(device, ce, x, w, rows, loss, dx, dw, [&](cpu::RowSpan chunk) {
    return [&, logits = cpu::teacher_logits(device, teacher, teacher_rows, chunk)](std::int64_t i, std::span<float> z) {
      const std::span<const float> teacher_z(logits.f32() + i * w.size(0), z.size());
      if (teacher.distance == Distance::cross_entropy) return distillation_loss(ce, teacher_z, z);
      return distance_loss(teacher.distance, ce, teacher_z, z);
    };
  });
}

void projected_choice(Device& device, const Tensor& x, const Tensor& w, const Tensor& labels, const Tensor& choices) {
  const std::int64_t vocabulary = w.size(0);
  cpu::choose(device, x, w, labels, choices, [&](const Tensor& chunk_x) {
    return [z = cpu::capped_logits(device, chunk_x, w, 0), vocabulary](std::int64_t i) {
      const float* row = z.f32() + i * vocabulary;
      return std::max_element(row, row + vocabulary) - row;  // the first of equal ones
    };
  });
}

}  // namespace mtp::ops::cpu
