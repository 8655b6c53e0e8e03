// The operations of a graph: each runs forward and records its backward.

#include "mtp/graph/graph.h"
#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"
#include "mtp/ops/matmul.h"
#include "mtp/ops/norm.h"
#include "mtp/ops/rowwise.h"
#include "mtp/tensor/bfloat16.h"

namespace mtp {

Tensor Graph::empty_like(const Tensor& x) { return device_.empty(x.shape(), x.dtype()); }

Value Graph::linear(const Value& x, const Parameter& w) {
  Value y = output(device_.empty({x.data.size(0), w.shape[0]}, x.data.dtype()), x.needs_gradient() || w.trained());
  const auto multiply = options_.rowwise ? ops::rowwise_linear : ops::linear_forward;
  multiply(device_, x.data, w.value(), y.data);
  on_backward(y, [this, w, dx_sum = x.gradient, shape = x.data.shape(),
                  x_data = w.trained() ? x.data : Tensor()](const Tensor& dy) {
    if (w.trained()) ops::linear_backward_weight(device_, dy, x_data, w.gradient());
    if (dx_sum == nullptr) return;
    const Tensor dx = device_.empty(shape, dy.dtype());
    ops::linear_backward_input(device_, dy, w.value(), dx);
    dx_sum->add(device_, dx);
  });
  return y;
}

Value Graph::rms_norm(const Value& x, const Parameter& w, float eps) { return rms_norm(nullptr, x, &w, eps); }
Value Graph::rms_norm(const Value& x, float eps) { return rms_norm(nullptr, x, nullptr, eps); }
Value Graph::add_rms_norm(const Value& residual, const Value& x, const Parameter& w, float eps) {
  return rms_norm(&residual, x, &w, eps);
}

Value Graph::rms_norm(const Value* residual, const Value& x, const Parameter* w, float eps) {
  const bool trained = w != nullptr && w->trained(), with_norm = x.needs_gradient() || trained;
  const Parameter weight = w != nullptr ? *w : Parameter{};
  const auto weight_value = [weight] { return weight.group != nullptr ? weight.value() : Tensor(); };
  const auto residual_sum = residual != nullptr ? residual->gradient : nullptr;
  Value y = output(empty_like(x.data), with_norm || residual_sum != nullptr);
  const Tensor rrms = device_.empty({x.data.elements() / x.data.size(-1)});
  if (residual != nullptr)
    ops::add_rms_norm_forward(device_, {eps}, residual->data, x.data, weight_value(), y.data, rrms);
  else
    ops::rms_norm_forward(device_, {eps}, x.data, weight_value(), y.data, rrms);
  on_backward(y, [this, weight, weight_value, trained, with_norm, residual_sum, rrms, x](const Tensor& dy) {
    if (residual_sum != nullptr) residual_sum->add(device_, dy);
    if (!with_norm) return;
    const Tensor dx = empty_like(x.data);
    ops::rms_norm_backward(device_, dy, x.data, weight_value(), rrms, dx, trained ? weight.gradient() : Tensor());
    if (x.needs_gradient()) x.gradient->add(device_, dx);
  });
  return y;
}

Value Graph::add(const Value& a, const Value& b) {
  Value y = output(empty_like(a.data), a.needs_gradient() || b.needs_gradient());
  ops::add(device_, a.data, b.data, y.data);
  on_backward(y, [this, da_sum = a.gradient, db_sum = b.gradient](const Tensor& dy) {
    if (da_sum != nullptr) da_sum->add(device_, dy);
    if (db_sum != nullptr) db_sum->add(device_, dy);
  });
  return y;
}

Value Graph::add_scaled(const Value& a, const Value& b, float factor) {
  Value y = output(empty_like(a.data), a.needs_gradient() || b.needs_gradient());
  ops::add_scaled(device_, a.data, b.data, factor, y.data);
  on_backward(y, [this, factor, da_sum = a.gradient, db_sum = b.gradient](const Tensor& dy) {
    const Tensor scaled = empty_like(dy);
    ops::scale(device_, dy, factor, scaled);
    if (da_sum != nullptr) da_sum->add(device_, scaled);
    if (db_sum != nullptr) db_sum->add(device_, scaled);
  });
  return y;
}

Value Graph::scale(const Value& x, float factor) {
  if (factor == 1.0f) return x;
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::scale(device_, x.data, factor, y.data);
  on_backward(y, [this, factor, dx_sum = x.gradient](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::scale(device_, dy, factor, dx);
    dx_sum->add(device_, dx);
  });
  return y;
}

Value Graph::concat_columns(const Value& a, const Value& b) {
  const std::int64_t rows = a.data.size(0), wa = a.data.size(1), wb = b.data.size(1);
  Value y = output(device_.empty({rows, wa + wb}, a.data.dtype()), a.needs_gradient() || b.needs_gradient());
  ops::concat_columns(device_, a.data, b.data, y.data);
  on_backward(y, [this, rows, wa, wb, da_sum = a.gradient, db_sum = b.gradient](const Tensor& dy) {
    const Tensor da = da_sum != nullptr ? device_.empty({rows, wa}, dy.dtype()) : Tensor();
    const Tensor db = db_sum != nullptr ? device_.empty({rows, wb}, dy.dtype()) : Tensor();
    ops::split_columns(device_, dy, da, db);
    if (da_sum != nullptr) da_sum->add(device_, da);
    if (db_sum != nullptr) db_sum->add(device_, db);
  });
  return y;
}

Value Graph::columns(const Value& x, std::int64_t begin, std::int64_t count) {
  Value y = output(device_.empty({x.data.size(0), count}, x.data.dtype()), x.needs_gradient());
  ops::copy_columns(device_, x.data, begin, y.data);
  on_backward(y, [this, begin, width = x.data.size(1), dx_sum = x.gradient](const Tensor& dy) {
    dx_sum->add_columns(device_, dy, begin, width);
  });
  return y;
}

Value Graph::gated_gelu(const Value& gate, const Value& up) {
  Value y = output(empty_like(gate.data), gate.needs_gradient() || up.needs_gradient());
  ops::gated_gelu_forward(device_, gate.data, up.data, y.data);
  on_backward(y, [this, gate, up](const Tensor& dy) {
    const Tensor dgate = gate.needs_gradient() ? empty_like(gate.data) : Tensor();
    const Tensor dup = up.needs_gradient() ? empty_like(up.data) : Tensor();
    ops::gated_gelu_backward(device_, dy, gate.data, up.data, dgate, dup);
    if (gate.needs_gradient()) gate.gradient->add(device_, dgate);
    if (up.needs_gradient()) up.gradient->add(device_, dup);
  });
  return y;
}

Value Graph::rope(const Value& x, const ops::Rope& rope, const ops::Sequences& sequences) {
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::rope_forward(device_, rope, sequences, x.data, y.data);
  on_backward(y, [this, &rope, &sequences, dx_sum = x.gradient](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::rope_backward(device_, rope, sequences, dy, dx);
    dx_sum->add(device_, dx);
  });
  return y;
}

Value Graph::attention(const Value& q, const Value& k, const Value& v, const ops::AttentionMask& mask,
                       const ops::Sequences& sequences) {
  MTP_ASSERT(k.needs_gradient() == v.needs_gradient());
  Value y = output(empty_like(q.data), q.needs_gradient() || k.needs_gradient());
  if (options_.rowwise) {
    ops::rowwise_attention(device_, mask, sequences.first(), q.data, k.data, v.data, y.data);
    return y;
  }
  const Tensor lse = device_.empty({q.data.size(1), q.data.size(0)});
  ops::attention_forward(device_, mask, sequences, q.data, k.data, v.data, y.data, lse);
  on_backward(y, [this, q, k, v, mask, &sequences, out = y.data, lse](const Tensor& dy) {
    const Tensor dq = empty_like(q.data);
    const Tensor dk = k.needs_gradient() ? empty_like(k.data) : Tensor();
    const Tensor dv = v.needs_gradient() ? empty_like(v.data) : Tensor();
    ops::attention_backward(device_, mask, sequences, dy, q.data, k.data, v.data, out, lse, dq, dk, dv);
    if (q.needs_gradient()) q.gradient->add(device_, dq);
    if (k.needs_gradient()) k.gradient->add(device_, dk);
    if (v.needs_gradient()) v.gradient->add(device_, dv);
  });
  return y;
}

Graph::Lookup Graph::lookup(const Parameter& table, std::span<const std::int64_t> ids, float exact_factor,
                            std::int64_t skip) {
  const auto count = static_cast<std::int64_t>(ids.size()), width = table.shape[1];
  std::vector<std::int64_t> with_skip(ids.begin(), ids.end());
  with_skip.push_back(skip);
  const Tensor wanted = device_.from_host(with_skip), rows = table.group->rows(wanted);
  const float factor = rounded_to(rows.dtype(), exact_factor);
  ops::scale(device_, rows, factor, rows);

  const Value y = output(rows.slice(0, {count, width}), table.trained());
  on_backward(y, [table, asked = wanted.slice(0, {count}), factor, skip](const Tensor& dy) {
    table.group->add_row_gradients({.ids = asked, .gradients = dy, .factor = factor, .skip = skip});
  });
  return {y, rows.slice(count * width, {1, width})};
}

Value Graph::shift_rows(const Value& x, const Tensor& fill, std::int64_t by, const ops::Sequences& sequences) {
  if (by == 0) return x;
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::shift_rows_forward(device_, sequences, by, x.data, fill, y.data);
  on_backward(y, [this, by, &sequences, dx_sum = x.gradient](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::shift_rows_backward(device_, sequences, by, dy, dx);
    dx_sum->add(device_, dx);
  });
  return y;
}

Value Graph::view(const Value& x, Shape shape) {
  Value y = output(x.data.view(std::move(shape)), x.needs_gradient());
  on_backward(y, [this, old_shape = x.data.shape(), dx_sum = x.gradient](const Tensor& dy) {
    dx_sum->add(device_, dy.view(old_shape));
  });
  return y;
}

Tensor Graph::loss(const Value& x, const Parameter& w, const LossOperation& run) {
  Tensor sum = device_.empty({}, DType::f64);
  const Tensor dx = options_.recording && x.needs_gradient() ? empty_like(x.data) : Tensor();
  const Tensor dw = options_.recording && w.trained() ? w.gradient() : Tensor();
  run(sum, dx, dw);
  if (!dx.empty()) tape_.push_back([this, dx, dx_sum = x.gradient] { dx_sum->add(device_, dx); });
  return sum;
}

Tensor Graph::cross_entropy(const ops::CrossEntropy& ce, const Value& x, const Parameter& w, const Tensor& labels) {
  return loss(x, w, [&](const Tensor& sum, const Tensor& dx, const Tensor& dw) {
    ops::projected_cross_entropy(device_, ce, x.data, w.value(), labels, sum, dx, dw);
  });
}

Tensor Graph::distillation(const ops::CrossEntropy& ce, const Value& x, const Parameter& w, const ops::Teacher& teacher,
                           const Tensor& teacher_rows) {
  return loss(x, w, [&](const Tensor& sum, const Tensor& dx, const Tensor& dw) {
    ops::projected_distillation(device_, ce, x.data, w.value(), teacher, teacher_rows, sum, dx, dw);
  });
}

Tensor Graph::masked_cross_entropy(const ops::CrossEntropy& ce, const ops::MaskedHead& head, const Value& x,
                                   const Parameter& w, const ops::Sequences& sequences, const Tensor& labels) {
  return loss(x, w, [&](const Tensor& sum, const Tensor& dx, const Tensor& dw) {
    ops::masked_cross_entropy(device_, ce, head, sequences, x.data, w.value(), labels, sum, dx, dw);
  });
}

Tensor Graph::masked_distillation(const ops::CrossEntropy& ce, const ops::MaskedHead& head, const Value& x,
                                  const Parameter& w, const ops::Sequences& sequences, const ops::Teacher& teacher,
                                  const Tensor& teacher_rows) {
  return loss(x, w, [&](const Tensor& sum, const Tensor& dx, const Tensor& dw) {
    ops::masked_distillation(device_, ce, head, sequences, x.data, w.value(), teacher, teacher_rows, sum, dx, dw);
  });
}

}  // namespace mtp
