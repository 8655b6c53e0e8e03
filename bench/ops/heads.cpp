#include "heads.h"

#include <algorithm>
#include <cmath>

namespace mtp::bench {

Projection projection(Device& device, const Sizes& sizes, std::int64_t width, float soft_cap,
                      std::vector<std::int64_t> labels) {
  std::vector<std::int64_t> few(labels.size(), ops::no_label);
  for (const std::int64_t i : sample(sizes.rows)) few[i] = labels[i];
  const float scale = 3 / std::sqrt(static_cast<float>(width));  // logits of order one
  return {.ce = {.soft_cap = soft_cap, .gradient_scale = 0.5f},
          .x = random_tensor(device, {sizes.rows, width}, 1, 1, sizes.type),
          .w = random_tensor(device, {sizes.vocabulary, width}, 2, scale, sizes.type),
          .labels = device.from_host(few),
          .all_labels = std::move(labels),
          .loss = device.empty({}, DType::f64),
          .dx = device.empty({sizes.rows, width}, sizes.type),
          .dw = device.zeros({sizes.vocabulary, width})};
}

void label_every_row(Device& device, const Projection& projection) {
  device.copy(device.from_host(projection.all_labels), projection.labels);
}

ops::Teacher teacher(Device& device, const Sizes& sizes) {
  const std::int64_t width = sizes.base.hidden_size;
  const float scale = 3 / std::sqrt(static_cast<float>(width));
  return {.x = random_tensor(device, {sizes.rows, width}, 11, 1, sizes.type),
          .w = random_tensor(device, {sizes.vocabulary, width}, 12, scale, sizes.type),
          .soft_cap = sizes.base.final_logit_softcapping.value_or(0)};
}

std::vector<Values> rows_of(const Device& device, const Tensor& tensor, const std::vector<std::int64_t>& rows) {
  std::vector<Values> values;
  for (const std::int64_t i : rows) values.push_back(row(device, tensor, i));
  return values;
}

void for_each_row(const Device& device, const Tensor& table,
                  const std::function<void(std::int64_t index, const float* row)>& body) {
  constexpr std::int64_t rows_at_once = 1024;
  const std::int64_t width = table.size(1);
  for (std::int64_t begin = 0; begin < table.size(0); begin += rows_at_once) {
    const std::int64_t count = std::min(rows_at_once, table.size(0) - begin);
    std::vector<float> values(static_cast<std::size_t>(count * width));
    device.to_host(table.slice(begin * width, {count * width}), values);
    for (std::int64_t i = 0; i < count; ++i) body(begin + i, values.data() + i * width);
  }
}

double dot(const Values& x, const float* row) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * static_cast<double>(row[i]);
  return sum;
}

double cap(double z, float soft_cap) { return soft_cap > 0 ? soft_cap * std::tanh(z / soft_cap) : z; }

std::vector<Values> logits(const Device& device, const std::vector<Values>& rows, const Tensor& w, float soft_cap) {
  std::vector<Values> z(rows.size(), Values(static_cast<std::size_t>(w.size(0))));
  for_each_row(device, w, [&](std::int64_t v, const float* row) {
    for (std::size_t i = 0; i < rows.size(); ++i) z[i][v] = cap(dot(rows[i], row), soft_cap);
  });
  return z;
}

Values softmax(Values z) {
  const double largest = std::ranges::max(z);
  double sum = 0;
  for (double& value : z) sum += value = std::exp(value - largest);
  for (double& value : z) value /= sum;
  return z;
}

void expect_choices(const Device& device, const Tensor& choices, const std::vector<Values>& logits) {
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(choices.elements()));
  device.to_host(choices, chosen);
  const std::vector<std::int64_t> rows = sample(choices.elements());
  for (std::size_t i = 0; i < rows.size(); ++i)
    expect_close("logit of the choice", {logits[i][chosen[rows[i]]]}, {std::ranges::max(logits[i])});
}

void ExpectedLosses::add(std::int64_t row, double loss, const Values& gradient) {
  loss_ += loss;
  rows_.push_back(row);
  gradients_.push_back(gradient);
}

void ExpectedLosses::check() const {
  const Projection& p = projection_;
  const DType type = p.w.dtype();  // to which a GPU rounds the gradients of logits
  Values loss(1);
  device_.to_host(p.loss, loss);
  expect_close("loss", loss, {loss_});
  std::vector<Values> dx(rows_.size(), Values(static_cast<std::size_t>(p.x.size(1))));
  for_each_row(device_, p.w, [&](std::int64_t v, const float* row) {
    for (std::size_t i = 0; i < dx.size(); ++i)
      for (std::size_t j = 0; j < dx[i].size(); ++j) dx[i][j] += gradients_[i][v] * static_cast<double>(row[j]);
  });
  for (std::size_t i = 0; i < rows_.size(); ++i) expect_close("dx", row(device_, p.dx, rows_[i]), dx[i], {type, type});
  for (const std::int64_t labelled : sample(p.x.size(0))) {
    const std::int64_t token = p.all_labels[labelled];
    Values dw(static_cast<std::size_t>(p.x.size(1)));
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const Values x = row(device_, p.x, rows_[i]);
      for (std::size_t j = 0; j < dw.size(); ++j) dw[j] += gradients_[i][token] * x[j];
    }
    expect_close("dw", row(device_, p.dw, token), dw, {DType::f32, type});
  }
}

}  // namespace mtp::bench
