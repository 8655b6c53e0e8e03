// The operations of a tape: each runs forward and records its backward.

#include <array>
#include <optional>
#include <utility>

#include "mtp/graph/tape.h"
#include "mtp/ops/elementwise.h"
#include "mtp/ops/embedding.h"
#include "mtp/ops/layer_norm.h"
#include "mtp/ops/matmul.h"
#include "mtp/ops/norm.h"
#include "mtp/ops/vision.h"
#include "mtp/tensor/bfloat16.h"

namespace mtp {

namespace {

/// Calls use(source, pairs, part) for every source of pairs that stand one after the other's; part(x) are its rows of
/// x.
template <typename Use>
void for_each_source(const std::vector<ops::ExpertPairs>& sources, const Use& use) {
  std::int64_t next = 0;
  for (std::size_t source = 0; source < sources.size(); ++source) {
    const std::int64_t count = sources[source].rows.elements(), first = std::exchange(next, next + count);
    use(source, sources[source], [&](const Tensor& x) { return x.slice(first * x.size(1), {count, x.size(1)}); });
  }
}

}  // namespace

Value Tape::linear(const Value& x, const Linear& w) {
  const Value y = product(x, w.weight);
  if (!w.adapter) return y;
  const auto& [a, b, scale] = *w.adapter;
  return add(y, product(this->scale(product(x, a), scale), b));
}

Value Tape::product(const Value& x, const Parameter& w) {
  const auto as_matrix = [](const Tensor& all) { return all.view({all.size(0), all.elements() / all.size(0)}); };
  Value y = output(device().empty({x.data.size(0), w.shape()[0]}, x.data.dtype()), x.needs_gradient() || w.trained());
  ops::linear_forward(device(), x.data, as_matrix(w.value()), y.data);
  on_backward(y, [this, as_matrix, w, dx_sum = x.gradient, shape = x.data.shape(),
                  x_data = w.trained() ? x.data : Tensor()](const Tensor& dy) {
    if (w.trained()) ops::linear_backward_weight(device(), dy, x_data, as_matrix(w.gradient()));
    if (dx_sum == nullptr) return;
    const Tensor dx = device().empty(shape, dy.dtype());
    ops::linear_backward_input(device(), dy, as_matrix(w.value()), dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::rms_norm(const Value& x, const Parameter& w, float eps) { return norm(nullptr, x, &w, eps); }
Value Tape::rms_norm(const Value& x, float eps) { return norm(nullptr, x, nullptr, eps); }
Value Tape::add_rms_norm(const Value& residual, const Value& x, const Parameter& w, float eps) {
  return norm(&residual, x, &w, eps);
}

Value Tape::norm(const Value* residual, const Value& x, const Parameter* w, float eps) {
  const bool trained = w != nullptr && w->trained(), with_norm = x.needs_gradient() || trained;
  const auto weight = w != nullptr ? std::optional(*w) : std::nullopt;
  const auto weight_value = [this, weight, dtype = x.data.dtype()] {
    return weight ? in_type(weight->value(), dtype) : Tensor();
  };
  const auto residual_sum = residual != nullptr ? residual->gradient : nullptr;
  Value y = output(empty_like(x.data), with_norm || residual_sum != nullptr);
  const Tensor rrms = device().empty({x.data.elements() / x.data.size(-1)});
  if (residual != nullptr)
    ops::add_rms_norm_forward(device(), {eps}, residual->data, x.data, weight_value(), y.data, rrms);
  else
    ops::rms_norm_forward(device(), {eps}, x.data, weight_value(), y.data, rrms);
  on_backward(y, [this, weight, weight_value, trained, with_norm, residual_sum, rrms, x](const Tensor& dy) {
    if (residual_sum != nullptr) residual_sum->add(device(), dy);
    if (!with_norm) return;
    const Tensor dx = empty_like(x.data);
    ops::rms_norm_backward(device(), dy, x.data, weight_value(), rrms, dx, trained ? weight->gradient() : Tensor());
    if (x.needs_gradient()) x.gradient->add(device(), dx);
  });
  return y;
}

Value Tape::layer_norm(const Value& x, const Parameter& w, const std::optional<Parameter>& bias, float eps) {
  const bool trained = w.trained(), with_norm = x.needs_gradient() || trained;
  Value y = output(empty_like(x.data), with_norm || (bias && bias->trained()));
  const Tensor statistics = device().empty({x.data.elements() / x.data.size(-1), 2});
  ops::layer_norm_forward(device(), {eps}, x.data, w.value(), bias ? bias->value() : Tensor(), y.data, statistics);
  on_backward(y, [this, w, bias, trained, with_norm, statistics, x](const Tensor& dy) {
    if (bias && bias->trained()) ops::add_bias_backward(device(), dy, bias->gradient());
    if (!with_norm) return;
    const Tensor dx = empty_like(x.data);
    ops::layer_norm_backward(device(), dy, x.data, w.value(), statistics, dx, trained ? w.gradient() : Tensor());
    if (x.needs_gradient()) x.gradient->add(device(), dx);
  });
  return y;
}

Value Tape::add_bias(const Value& x, const Parameter& bias) {
  Value y = output(empty_like(x.data), x.needs_gradient() || bias.trained());
  ops::add_bias(device(), x.data, bias.value(), y.data);
  on_backward(y, [this, bias, dx_sum = x.gradient](const Tensor& dy) {
    if (bias.trained()) ops::add_bias_backward(device(), dy, bias.gradient());
    if (dx_sum != nullptr) dx_sum->add(device(), dy);
  });
  return y;
}

Value Tape::add(const Value& a, const Value& b) {
  Value y = output(empty_like(a.data), a.needs_gradient() || b.needs_gradient());
  ops::add(device(), a.data, b.data, y.data);
  on_backward(y, [this, da_sum = a.gradient, db_sum = b.gradient](const Tensor& dy) {
    if (da_sum != nullptr) da_sum->add(device(), dy);
    if (db_sum != nullptr) db_sum->add(device(), dy);
  });
  return y;
}

Value Tape::add_scaled(const Value& a, const Value& b, float factor) {
  Value y = output(empty_like(a.data), a.needs_gradient() || b.needs_gradient());
  ops::add_scaled(device(), a.data, b.data, factor, y.data);
  on_backward(y, [this, factor, da_sum = a.gradient, db_sum = b.gradient](const Tensor& dy) {
    const Tensor scaled = empty_like(dy);
    ops::scale(device(), dy, factor, scaled);
    if (da_sum != nullptr) da_sum->add(device(), scaled);
    if (db_sum != nullptr) db_sum->add(device(), scaled);
  });
  return y;
}

Value Tape::scale(const Value& x, float factor) {
  if (factor == 1.0f) return x;
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::scale(device(), x.data, factor, y.data);
  on_backward(y, [this, factor, dx_sum = x.gradient](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::scale(device(), dy, factor, dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::concat_columns(const Value& a, const Value& b) {
  const std::int64_t rows = a.data.size(0), wa = a.data.size(1), wb = b.data.size(1);
  Value y = output(device().empty({rows, wa + wb}, a.data.dtype()), a.needs_gradient() || b.needs_gradient());
  ops::concat_columns(device(), a.data, b.data, y.data);
  on_backward(y, [this, rows, wa, wb, da_sum = a.gradient, db_sum = b.gradient](const Tensor& dy) {
    const Tensor da = da_sum != nullptr ? device().empty({rows, wa}, dy.dtype()) : Tensor();
    const Tensor db = db_sum != nullptr ? device().empty({rows, wb}, dy.dtype()) : Tensor();
    ops::split_columns(device(), dy, da, db);
    if (da_sum != nullptr) da_sum->add(device(), da);
    if (db_sum != nullptr) db_sum->add(device(), db);
  });
  return y;
}

Value Tape::columns(const Value& x, std::int64_t begin, std::int64_t count) {
  Value y = output(device().empty({x.data.size(0), count}, x.data.dtype()), x.needs_gradient());
  ops::copy_columns(device(), x.data, begin, y.data);
  on_backward(y, [this, begin, width = x.data.size(1), dx_sum = x.gradient](const Tensor& dy) {
    dx_sum->add_columns(device(), dy, begin, width);
  });
  return y;
}

Value Tape::gated_gelu(const Value& gate, const Value& up) {
  Value y = output(empty_like(gate.data), gate.needs_gradient() || up.needs_gradient());
  ops::gated_gelu_forward(device(), gate.data, up.data, y.data);
  on_backward(y, [this, gate, up](const Tensor& dy) {
    const Tensor dgate = gate.needs_gradient() ? empty_like(gate.data) : Tensor();
    const Tensor dup = up.needs_gradient() ? empty_like(up.data) : Tensor();
    ops::gated_gelu_backward(device(), dy, gate.data, up.data, dgate, dup);
    if (gate.needs_gradient()) gate.gradient->add(device(), dgate);
    if (up.needs_gradient()) up.gradient->add(device(), dup);
  });
  return y;
}

std::vector<Value> Tape::norm_linear(const Value& x, const Parameter& norm, float eps, const std::vector<Linear>& w) {
  const Value normed = rms_norm(x, norm, eps);
  std::vector<Value> products;
  for (const Linear& each : w) products.push_back(linear(normed, each));
  return products;
}

Value Tape::norm_gated_linear(const Value& x, const Parameter& norm, float eps, const Linear& gate, const Linear& up) {
  const Value normed = rms_norm(x, norm, eps);
  return gated_gelu(linear(normed, gate), linear(normed, up));
}

Value Tape::gate(const Value& x, const Linear& w, const Value& factors) { return gated_gelu(linear(x, w), factors); }

Graph::Projections Tape::heads(int, const Projections& projected, const HeadNorms& norms, const ops::Rope& rope) {
  Projections ready;
  if (const auto& own = projected.key_value) {
    const Value key = this->rope(rms_norm(own->key, *norms.key, norms.eps), rope);
    ready.key_value = KeyValue{key, rms_norm(own->value, norms.eps)};
  }
  ready.query = this->rope(rms_norm(projected.query, norms.query, norms.eps), rope);
  return ready;
}

Value Tape::rope(const Value& x, const ops::Rope& rope) {
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::rope_forward(device(), rope, sequences_, x.data, y.data);
  on_backward(y, [this, &rope, dx_sum = x.gradient](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::rope_backward(device(), rope, sequences_, dy, dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::rope_2d(const Value& x, const ops::Rope& rope, const Tensor& positions) {
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::rope_2d_forward(device(), rope, positions, x.data, y.data);
  on_backward(y, [this, &rope, positions, dx_sum = x.gradient](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::rope_2d_backward(device(), rope, positions, dy, dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::clamp(const Value& x, const ops::Bounds& bounds) {
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::clamp_forward(device(), bounds, x.data, y.data);
  on_backward(y, [this, bounds, x](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::clamp_backward(device(), bounds, dy, x.data, dx);
    x.gradient->add(device(), dx);
  });
  return y;
}

Value Tape::attention(const Value& q, const KeyValue& kv, const ops::AttentionMask& mask) {
  const auto& [k, v] = kv;
  const bool goes_to_kv = k.needs_gradient() || v.needs_gradient();
  Value y = output(empty_like(q.data), q.needs_gradient() || goes_to_kv);
  const Tensor lse = device().empty({q.data.size(1), q.data.size(0)});
  ops::attention_forward(device(), mask, sequences_, q.data, k.data, v.data, y.data, lse);
  on_backward(y, [this, q, k = k, v = v, goes_to_kv, mask, out = y.data, lse](const Tensor& dy) {
    const Tensor dq = empty_like(q.data);
    const Tensor dk = goes_to_kv ? empty_like(k.data) : Tensor(), dv = goes_to_kv ? empty_like(v.data) : Tensor();
    ops::attention_backward(device(), mask, sequences_, dy, q.data, k.data, v.data, out, lse, dq, dk, dv);
    if (q.needs_gradient()) q.gradient->add(device(), dq);
    if (k.needs_gradient()) k.gradient->add(device(), dk);
    if (v.needs_gradient()) v.gradient->add(device(), dv);
  });
  return y;
}

Graph::Lookup Tape::lookup(const Parameter& table, const Tokens& tokens, float exact_factor) {
  const std::int64_t width = table.shape()[1];
  const Tensor rows = table.group().rows(tokens);
  const float factor = rounded_to(rows.dtype(), exact_factor);
  ops::scale(device(), rows, factor, rows);

  const Value y = output(rows.slice(0, {tokens.count(), width}), table.trained());
  on_backward(y, [table, tokens, factor](const Tensor& dy) { table.group().add_row_gradients(tokens, dy, factor); });
  return {y, tokens.fill >= 0 ? rows.slice(tokens.count() * width, {1, width}) : Tensor()};
}

Value Tape::rows_of(const Parameter& table, const Tensor& ids) {
  const auto as_rows = [](const Tensor& all) { return all.view({all.elements() / all.size(-1), all.size(-1)}); };
  const Tensor values = as_rows(table.value());
  Value y = output(device().empty({ids.elements(), values.size(1)}, values.dtype()), table.trained());
  ops::lookup_forward(device(), values, ids, 1, y.data);
  on_backward(y, [this, table, as_rows, ids](const Tensor& dy) {
    constexpr std::int64_t skip_none = -1;
    ops::lookup_backward(device(), dy, ids, 1, skip_none, as_rows(table.gradient()));
  });
  return y;
}

Value Tape::put_rows(const Value& x, const Value& features, const Tensor& rows) {
  Value y = output(empty_like(x.data), x.needs_gradient() || features.needs_gradient());
  device().copy(x.data, y.data);
  ops::put_rows(device(), features.data, rows, y.data);
  on_backward(y, [this, x_sum = x.gradient, features_sum = features.gradient, shape = features.data.shape(),
                  rows](const Tensor& dy) {
    if (features_sum != nullptr) {
      const Tensor dfeatures = device().empty(shape, dy.dtype());
      ops::lookup_forward(device(), dy, rows, 1, dfeatures);
      features_sum->add(device(), dfeatures);
    }
    if (x_sum == nullptr) return;
    const Tensor dx = empty_like(dy);
    device().copy(dy, dx);
    ops::put_rows(device(), device().zeros(shape, dy.dtype()), rows, dx);
    x_sum->add(device(), dx);
  });
  return y;
}

Value Tape::pool_patches(const Value& x, const ops::PatchGrids& grids, std::int64_t k, float factor) {
  const std::int64_t width = x.data.size(1);
  Value y = output(device().empty({grids.rows() / (k * k), width}), x.needs_gradient());
  ops::pool_patches_forward(device(), grids, k, factor, x.data, y.data);
  on_backward(y, [this, &grids, k, factor, x](const Tensor& dy) {
    const Tensor dx = empty_like(x.data);
    ops::pool_patches_backward(device(), grids, k, factor, dy, dx);
    x.gradient->add(device(), dx);
  });
  return y;
}

Value Tape::standardize(const Value& x, const Tensor& bias, const Tensor& scale, DType dtype) {
  Value y = output(device().empty(x.data.shape(), dtype), x.needs_gradient());
  ops::standardize_forward(device(), x.data, bias, scale, y.data);
  on_backward(y, [this, scale, dx_sum = x.gradient](const Tensor& dy) {
    const Tensor dx = device().empty(dy.shape());
    ops::standardize_backward(device(), dy, scale, dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::activation(ops::Activation kind, const Value& x) {
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::activation_forward(device(), kind, x.data, y.data);
  on_backward(y, [this, kind, x](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::activation_backward(device(), kind, dy, x.data, dx);
    x.gradient->add(device(), dx);
  });
  return y;
}

Value Tape::gated_sigmoid(const Value& x) {
  Value y = output(device().empty({x.data.size(0), x.data.size(1) / 2}, x.data.dtype()), x.needs_gradient());
  ops::gated_sigmoid_forward(device(), x.data, y.data);
  on_backward(y, [this, x](const Tensor& dy) {
    const Tensor dx = empty_like(x.data);
    ops::gated_sigmoid_backward(device(), dy, x.data, dx);
    x.gradient->add(device(), dx);
  });
  return y;
}

Value Tape::neighbours(const Value& x, const ops::SoundGrid& in, const ops::SoundGrid& out) {
  Value y = output(device().empty({out.rows(), 9 * x.data.size(1)}, x.data.dtype()), x.needs_gradient());
  ops::neighbours_forward(device(), in, out, x.data, y.data);
  on_backward(y, [this, in, out, dx_sum = x.gradient, shape = x.data.shape()](const Tensor& dy) {
    const Tensor dx = device().empty(shape, dy.dtype());
    ops::neighbours_backward(device(), in, out, dy, dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::causal_convolution(const Value& x, const Parameter& w) {
  Value y = output(empty_like(x.data), x.needs_gradient() || w.trained());
  ops::causal_convolution_forward(device(), sequences_, x.data, w.value(), y.data);
  on_backward(y, [this, w, dx_sum = x.gradient, x_data = w.trained() ? x.data : Tensor()](const Tensor& dy) {
    if (w.trained()) ops::causal_convolution_backward_weight(device(), sequences_, dy, x_data, w.gradient());
    if (dx_sum == nullptr) return;
    const Tensor dx = empty_like(dy);
    ops::causal_convolution_backward_input(device(), sequences_, dy, w.value(), dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::scale_by_softplus(const Value& x, const Parameter& s, float factor) {
  Value y = output(empty_like(x.data), x.needs_gradient() || s.trained());
  ops::scale_by_softplus_forward(device(), factor, x.data, s.value(), y.data);
  on_backward(y, [this, s, factor, x](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::scale_by_softplus_backward(device(), factor, dy, x.data, s.value(), dx, s.trained() ? s.gradient() : Tensor());
    if (x.needs_gradient()) x.gradient->add(device(), dx);
  });
  return y;
}

Value Tape::local_attention(const Value& q, const KeyValue& kv, const Value& r, const ops::LocalAttention& attention) {
  const auto& [k, v] = kv;
  const ops::LocalAttentionInputs in{q.data, k.data, v.data, r.data};
  const bool needs_gradient = q.needs_gradient() || k.needs_gradient() || v.needs_gradient() || r.needs_gradient();
  Value y = output(empty_like(q.data), needs_gradient);
  const Tensor scores = device().empty({q.data.size(0), q.data.size(1), attention.span});
  ops::local_attention_forward(device(), attention, sequences_, in, y.data, scores);
  on_backward(y, [this, in, attention, scores,
                  sums = std::array{q.gradient, k.gradient, v.gradient, r.gradient}](const Tensor& dy) {
    const ops::LocalAttentionInputs gradients{empty_like(in.q), empty_like(in.k), empty_like(in.v), empty_like(in.r)};
    ops::local_attention_backward(device(), attention, sequences_, dy, in, scores, gradients);
    const std::array of_inputs{gradients.q, gradients.k, gradients.v, gradients.r};
    for (std::size_t i = 0; i < sums.size(); ++i)
      if (sums[i] != nullptr) sums[i]->add(device(), of_inputs[i]);
  });
  return y;
}

Tensor Tape::in_type(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor y = device().empty(x.shape(), dtype);
  ops::convert(device(), x, y);
  return y;
}

Value Tape::convert(const Value& x, DType dtype) {
  if (x.data.dtype() == dtype) return x;
  Value y = output(in_type(x.data, dtype), x.needs_gradient());
  on_backward(y, [this, dtype = x.data.dtype(), dx_sum = x.gradient](const Tensor& dy) {
    dx_sum->add(device(), in_type(dy, dtype));
  });
  return y;
}

Graph::Routing Tape::choose_experts(const Value& logits, std::int64_t n, const Parameter& scale) {
  const std::int64_t rows = logits.data.size(0), experts = logits.data.size(1);
  const ops::ExpertChoice choice{device().empty({rows, n}, DType::i64), device().empty({rows, n}),
                                 device().empty({rows, n})};
  ops::choose_experts_forward(device(), logits.data, scale.value(), choice);
  const ops::ExpertPairs pairs{device().empty({rows * n}, DType::i64), device().empty({rows, n}, DType::i64),
                               device().empty({experts + 1}, DType::i64)};
  ops::sort_by_expert(device(), choice.experts, pairs);
  const Value weights = output(choice.weights, logits.needs_gradient() || scale.trained());
  on_backward(weights, [this, choice, scale, logits](const Tensor& dweights) {
    const Tensor dlogits = empty_like(logits.data), dscale = scale.trained() ? scale.gradient() : Tensor();
    ops::choose_experts_backward(device(), dweights, choice, scale.value(), dlogits, dscale);
    if (logits.needs_gradient()) logits.gradient->add(device(), dlogits);
  });
  return {choice.experts, weights, pairs};
}

Value Tape::experts(const Value& x, const Routing& routing, const Parameter& gate_up, const Parameter& down) {
  const ops::ExpertPairs& pairs = routing.pairs;
  const Value rows = gather(x, pairs);
  const ExpertExchange* const exchange = gate_up.group().expert_exchange();
  if (exchange == nullptr) return add_pairs(expert_layers(rows, gate_up, down, {pairs}), routing.weights, pairs);
  const auto routes =
      std::make_shared<const ExpertExchange::Routes>(exchange->route(pairs.offsets, rows.needs_gradient()));
  const Value results = expert_layers(send(rows, *exchange, routes), gate_up, down, routes->pairs);
  return add_pairs(send_back(results, *exchange, routes), routing.weights, pairs);
}

Value Tape::expert_layers(const Value& x, const Parameter& gate_up, const Parameter& down,
                          const std::vector<ops::ExpertPairs>& sources) {
  const std::int64_t inner = down.shape()[2];
  const Value both = expert_linear(x, gate_up, sources);
  return expert_linear(gated_gelu(columns(both, 0, inner), columns(both, inner, inner)), down, sources);
}

Value Tape::send(const Value& rows, const ExpertExchange& exchange, const Routes& routes) {
  Value y = output(exchange.send(rows.data, *routes), routes->needs_gradient);
  on_backward(y, [this, &exchange, routes, sum = rows.gradient](const Tensor& dy) {
    const Tensor dx = exchange.send_back(dy, *routes);
    if (sum != nullptr) sum->add(device(), dx);  // else other ranks' rows need it
  });
  return y;
}

Value Tape::send_back(const Value& rows, const ExpertExchange& exchange, const Routes& routes) {
  Value y = output(exchange.send_back(rows.data, *routes), rows.needs_gradient());
  on_backward(y, [this, &exchange, routes, sum = rows.gradient](const Tensor& dy) {
    sum->add(device(), exchange.send(dy, *routes));
  });
  return y;
}

Value Tape::gather(const Value& x, const ops::ExpertPairs& pairs) {
  const std::int64_t width = x.data.size(1);
  Value y = output(device().empty({pairs.rows.elements(), width}, x.data.dtype()), x.needs_gradient());
  ops::lookup_forward(device(), x.data, pairs.rows, 1, y.data);
  on_backward(y, [this, pairs, dx_sum = x.gradient, shape = x.data.shape()](const Tensor& dy) {
    const Tensor dx = device().empty(shape, dy.dtype());
    ops::add_pairs_forward(device(), pairs, dy, {}, dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

// Each source's pairs are multiplied by themselves: a product's bits may depend on the number of its rows.
Value Tape::expert_linear(const Value& x, const Parameter& w, const std::vector<ops::ExpertPairs>& sources) {
  Value y = output(device().empty({x.data.size(0), w.shape()[1]}, x.data.dtype()), x.needs_gradient() || w.trained());
  for_each_source(sources, [&](std::size_t, const ops::ExpertPairs& pairs, const auto& part) {
    ops::expert_linear_forward(device(), pairs, part(x.data), w.value(), part(y.data));
  });
  on_backward(y, [this, w, sources, dx_sum = x.gradient, shape = x.data.shape(),
                  x_data = w.trained() ? x.data : Tensor()](const Tensor& dy) {
    const Tensor dx = dx_sum != nullptr ? device().empty(shape, dy.dtype()) : Tensor();
    for_each_source(sources, [&](std::size_t source, const ops::ExpertPairs& pairs, const auto& part) {
      if (w.trained()) ops::expert_linear_backward_weight(device(), pairs, part(dy), part(x_data), w.gradient(source));
      if (!dx.empty()) ops::expert_linear_backward_input(device(), pairs, part(dy), w.value(), part(dx));
    });
    if (dx_sum != nullptr) dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::add_pairs(const Value& x, const Value& weights, const ops::ExpertPairs& pairs) {
  Value y = output(device().empty({pairs.places.size(0), x.data.size(1)}, x.data.dtype()),
                   x.needs_gradient() || weights.needs_gradient());
  ops::add_pairs_forward(device(), pairs, x.data, weights.data, y.data);
  on_backward(y, [this, x, weights, pairs](const Tensor& dy) {
    const Tensor dx = x.needs_gradient() ? empty_like(x.data) : Tensor();
    const Tensor dweights = weights.needs_gradient() ? empty_like(weights.data) : Tensor();
    ops::add_pairs_backward(device(), pairs, dy, x.data, weights.data, dx, dweights);
    if (x.needs_gradient()) x.gradient->add(device(), dx);
    if (weights.needs_gradient()) weights.gradient->add(device(), dweights);
  });
  return y;
}

Value Tape::shift_rows(const Value& x, const Tensor& fill, std::int64_t by) {
  if (by == 0) return x;
  Value y = output(empty_like(x.data), x.needs_gradient());
  ops::shift_rows_forward(device(), sequences_, by, x.data, fill, y.data);
  on_backward(y, [this, by, dx_sum = x.gradient](const Tensor& dy) {
    const Tensor dx = empty_like(dy);
    ops::shift_rows_backward(device(), sequences_, by, dy, dx);
    dx_sum->add(device(), dx);
  });
  return y;
}

Value Tape::view(const Value& x, Shape shape) {
  Value y = output(x.data.view(std::move(shape)), x.needs_gradient());
  on_backward(y, [this, old_shape = x.data.shape(), dx_sum = x.gradient](const Tensor& dy) {
    dx_sum->add(device(), dy.view(old_shape));
  });
  return y;
}

Tensor Tape::loss(const Value& x, const Parameter& w, const LossOperation& run) {
  Tensor sum = device().empty({}, DType::f64);
  const Tensor dx = options_.recording && x.needs_gradient() ? empty_like(x.data) : Tensor();
  const Tensor dw = options_.recording && w.trained() ? w.gradient() : Tensor();
  run(sum, dx, dw);
  if (!dx.empty()) steps_.push_back([this, dx, dx_sum = x.gradient] { dx_sum->add(device(), dx); });
  return sum;
}

Tensor Tape::cross_entropy(const ops::CrossEntropy& ce, const Value& x, const Parameter& w, const Tensor& labels) {
  return loss(x, w, [&](const Tensor& sum, const Tensor& dx, const Tensor& dw) {
    ops::projected_cross_entropy(device(), ce, x.data, w.value(), labels, sum, dx, dw);
  });
}

Tensor Tape::distillation(const ops::CrossEntropy& ce, const Value& x, const Parameter& w, const ops::Teacher& teacher,
                          const Tensor& teacher_rows) {
  return loss(x, w, [&](const Tensor& sum, const Tensor& dx, const Tensor& dw) {
    ops::projected_distillation(device(), ce, x.data, w.value(), teacher, teacher_rows, sum, dx, dw);
  });
}

Tensor Tape::masked_cross_entropy(const ops::CrossEntropy& ce, const ops::MaskedHead& head, const Value& x,
                                  const Parameter& w, const Tensor& labels) {
  return loss(x, w, [&](const Tensor& sum, const Tensor& dx, const Tensor& dw) {
    ops::masked_cross_entropy(device(), ce, head, sequences_, x.data, w.value(), labels, sum, dx, dw);
  });
}

Tensor Tape::masked_distillation(const ops::CrossEntropy& ce, const ops::MaskedHead& head, const Value& x,
                                 const Parameter& w, const ops::Teacher& teacher, const Tensor& teacher_rows) {
  return loss(x, w, [&](const Tensor& sum, const Tensor& dx, const Tensor& dw) {
    ops::masked_distillation(device(), ce, head, sequences_, x.data, w.value(), teacher, teacher_rows, sum, dx, dw);
  });
}

}  // namespace mtp
