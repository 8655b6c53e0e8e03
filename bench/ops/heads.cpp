#include "heads.h"

#include <algorithm>
#include <cmath>

namespace mtp::bench {

namespace {

constexpr std::int64_t rows_at_once = 1024;  // of a token table on the host

/// body(v, row v) for every row of a table.
template <typename Body>
void for_each_row(const Device& device, const Tensor& table, const Body& body) {
  const std::int64_t width = table.size(1);
  for (std::int64_t begin = 0; begin < table.size(0); begin += rows_at_once) {
    const std::int64_t count = std::min(rows_at_once, table.size(0) - begin);
    std::vector<float> values(static_cast<std::size_t>(count * width));
    device.to_host(table.slice(begin * width, {count * width}), values);
    for (std::int64_t i = 0; i < count; ++i) body(begin + i, values.data() + i * width);
  }
}

}  // namespace

Projection projection(Device& device, std::int64_t rows, std::int64_t width, std::int64_t vocabulary, float soft_cap,
                      std::vector<std::int64_t> labels) {
  std::vector<std::int64_t> few(labels.size(), ops::no_label);
  for (const std::int64_t i : sample(rows)) few[i] = labels[i];
  const float scale = 3 / std::sqrt(static_cast<float>(width));  // logits of order one
  return {.ce = {.soft_cap = soft_cap, .gradient_scale = 0.5f},
          .x = random_tensor(device, {rows, width}, 1),
          .w = random_tensor(device, {vocabulary, width}, 2, scale),
          .labels = device.from_host(few),
          .all_labels = std::move(labels),
          .loss = device.empty({}, DType::f64),
          .dx = device.empty({rows, width}),
          .dw = device.zeros({vocabulary, width})};
}

void label_every_row(Device& device, const Projection& projection) {
  device.copy(device.from_host(projection.all_labels), projection.labels);
}

ops::Teacher teacher(Device& device, const Sizes& sizes) {
  const std::int64_t width = sizes.base.hidden_size;
  const float scale = 3 / std::sqrt(static_cast<float>(width));
  return {.x = random_tensor(device, {sizes.rows, width}, 11),
          .w = random_tensor(device, {sizes.vocabulary, width}, 12, scale),
          .soft_cap = sizes.base.final_logit_softcapping.value_or(0)};
}

double cap(double z, float soft_cap) { return soft_cap > 0 ? soft_cap * std::tanh(z / soft_cap) : z; }

Values logits(const Device& device, const Values& x, const Tensor& w, float soft_cap) {
  Values z(static_cast<std::size_t>(w.size(0)));
  for_each_row(device, w, [&](std::int64_t v, const float* row) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * static_cast<double>(row[i]);
    z[v] = cap(sum, soft_cap);
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

void expect_choices(const Device& device, const Tensor& choices,
                    const std::function<Values(std::int64_t row)>& logits) {
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(choices.elements()));
  device.to_host(choices, chosen);
  for (const std::int64_t i : sample(choices.elements())) {
    const Values z = logits(i);
    expect_close("logit of the choice", {z[chosen[i]]}, {std::ranges::max(z)});
  }
}

void ExpectedLosses::add(std::int64_t row, double loss, const Values& gradient) {
  loss_ += loss;
  rows_.push_back(row);
  gradients_.push_back(gradient);
}

void ExpectedLosses::check() const {
  Values loss(1);
  device_.to_host(projection_.loss, loss);
  expect_close("loss", loss, {loss_});
  for (std::size_t i = 0; i < rows_.size(); ++i) {
    Values dx(static_cast<std::size_t>(projection_.x.size(1)));
    for_each_row(device_, projection_.w, [&](std::int64_t v, const float* row) {
      for (std::size_t j = 0; j < dx.size(); ++j) dx[j] += gradients_[i][v] * static_cast<double>(row[j]);
    });
    expect_close("dx", row(device_, projection_.dx, rows_[i]), dx);
  }
  for (const std::int64_t labelled : sample(projection_.x.size(0))) {
    const std::int64_t token = projection_.all_labels[labelled];
    Values dw(static_cast<std::size_t>(projection_.x.size(1)));
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      const Values x = row(device_, projection_.x, rows_[i]);
      for (std::size_t j = 0; j < dw.size(); ++j) dw[j] += gradients_[i][token] * x[j];
    }
    expect_close("dw", row(device_, projection_.dw, token), dw);
  }
}

}  // namespace mtp::bench
