#include "loss.h"

#include <limits>

#include "mtp/ops/matmul.h"

namespace mtp::ops::cpu {

Rows chosen_rows(const Tensor& values, std::int64_t begin, std::int64_t end) {
  Rows rows;
  for (std::int64_t t = begin; t < end; ++t)
    if (values.data<std::int64_t>()[t] >= 0) rows.push_back(t);
  return rows;
}

Tensor gather_rows(Device& device, const Tensor& x, RowSpan rows) {
  const std::int64_t width = x.size(1);
  const Tensor y = device.empty({static_cast<std::int64_t>(rows.size()), width});
  with_type_of(x, [&]<typename T>(T) {
    float* out = y.f32();
    for (const std::int64_t row : rows) out = std::copy_n(elements_of<T>(x) + row * width, width, out);
  });
  return y;
}

void scatter_rows(const Tensor& x, RowSpan rows, const Tensor& y) {
  const std::int64_t width = x.size(1);
  with_type_of(y, [&]<typename T>(T) {
    const float* in = x.f32();
    for (const std::int64_t row : rows) {
      std::copy_n(in, width, elements_of<T>(y) + row * width);
      in += width;
    }
  });
}

Tensor capped_logits(Device& device, const Tensor& x, const Tensor& w, float soft_cap) {
  const Tensor z = device.empty({x.size(0), w.size(0)});
  linear_forward(device, x, w, z);
  if (soft_cap == 0) return z;
  parallel_for(device, z.size(0), [width = z.size(1), soft_cap, values = z.f32()](std::int64_t row) {
    float* const begin = values + row * width;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) begin[i] = soft_cap * tanh_f32(begin[i] / soft_cap);
  });
  return z;
}

Tensor teacher_logits(Device& device, const Teacher& teacher, const Tensor& teacher_rows, RowSpan rows) {
  Rows taught_by;
  for (const std::int64_t row : rows) {
    taught_by.push_back(teacher_rows.data<std::int64_t>()[row]);
    MTP_ASSERT(taught_by.back() < teacher.x.size(0));
  }
  return capped_logits(device, gather_rows(device, teacher.x, taught_by), teacher.w, teacher.soft_cap);
}

Softmax::Softmax(std::span<const float> z) : maximum_(-std::numeric_limits<float>::infinity()) {
  const auto n = static_cast<std::int64_t>(z.size());
  const float* values = z.data();
  float maximum = maximum_;
#pragma omp simd reduction(max : maximum)
  for (std::int64_t i = 0; i < n; ++i) maximum = values[i] > maximum ? values[i] : maximum;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += exp_f32(values[i] - maximum);
  maximum_ = maximum;
  set_sum(sum);
}

}  // namespace mtp::ops::cpu
