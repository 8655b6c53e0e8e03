#include "mtp/decode/rowwise_graph.h"

#include <algorithm>

#include "mtp/ops/elementwise.h"
#include "mtp/ops/norm.h"
#include "mtp/tensor/bfloat16.h"
#include "mtp/tensor/profile.h"

namespace mtp::decode {

namespace {

/// An export has merged the adapters: there are none to decode with.
Tensor merged(const Linear& layer) {
  MTP_ASSERT(!layer.adapter);
  return layer.weight.value();
}

}  // namespace

Graph::Projections PromptGraph::heads(int layer, const Projections& projected, const HeadNorms& norms,
                                      const ops::Rope& rope) {
  Projections ready = Tape::heads(layer, projected, norms, rope);
  if (ready.key_value) cache_.keep(layer, text_, *ready.key_value);
  return ready;
}

Value RowwiseGraph::empty_rows(const Value& x, std::int64_t width) {
  return constant(device().empty({x.data.size(0), width}, x.data.dtype()));
}

Tensor RowwiseGraph::in_type(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  const Tensor y = device().empty(x.shape(), dtype);
  ops::convert(device(), x, y);
  return y;
}

std::vector<ops::RowwiseInput>::iterator RowwiseGraph::find(const Value& x) {
  return std::ranges::find_if(
      put_off_, [&](const ops::RowwiseInput& in) { return in.x.data<std::byte>() == x.data.data<std::byte>(); });
}

const Tensor& RowwiseGraph::data_of(const Value& x) {
  const auto found = find(x);
  if (found == put_off_.end()) return x.data;
  const ops::RowwiseInput in = std::move(*found);
  put_off_.erase(found);
  ops::add_rms_norm_forward(device(), in.norm, in.residual, in.branch, in.branch_weight, in.x,
                            device().empty({in.x.size(0)}));
  if (in.factor != 1.0f) ops::scale(device(), in.x, in.factor, in.x);
  return x.data;
}

ops::RowwiseInput RowwiseGraph::input_of(const Value& x) {
  const auto found = find(x);
  if (found == put_off_.end()) return {x.data};
  ops::RowwiseInput in = std::move(*found);
  put_off_.erase(found);
  return in;
}

ops::RowwiseInput RowwiseGraph::input_of(const Value& x, const Parameter& norm, float eps) {
  ops::RowwiseInput in = input_of(x);
  MTP_ASSERT(in.branch.empty() || in.norm.eps == eps);
  in.weight = norm.value();
  in.norm = {eps};
  return in;
}

Value RowwiseGraph::linear(const Value& x, const Linear& w) {
  Value y = empty_rows(x, w.out());
  ops::rowwise_linear(device(), data_of(x), {merged(w)}, {y.data});
  return y;
}

std::vector<Value> RowwiseGraph::norm_linear(const Value& x, const Parameter& norm, float eps,
                                             const std::vector<Linear>& w) {
  std::vector<Value> products;
  std::vector<Tensor> weights, results;
  for (const Linear& each : w) {
    weights.push_back(merged(each));
    results.push_back(products.emplace_back(empty_rows(x, each.out())).data);
  }
  ops::rowwise_linear(device(), input_of(x, norm, eps), weights, results);
  return products;
}

Value RowwiseGraph::norm_gated_linear(const Value& x, const Parameter& norm, float eps, const Linear& gate,
                                      const Linear& up) {
  Value y = empty_rows(x, gate.out());
  ops::rowwise_gated_linear(device(), input_of(x, norm, eps), merged(gate), merged(up), y.data);
  return y;
}

Value RowwiseGraph::gate(const Value& x, const Linear& w, const Value& factors) {
  Value y = empty_rows(x, w.out());
  ops::rowwise_gate(device(), input_of(x), merged(w), data_of(factors), y.data);
  return y;
}

Value RowwiseGraph::rms_norm(const Value& x, const Parameter& w, float eps) {
  Value y = empty_like(x);
  const Tensor rrms = device().empty({x.data.elements() / x.data.size(-1)});
  ops::rms_norm_forward(device(), {eps}, data_of(x), in_type(w.value(), x.data.dtype()), y.data, rrms);
  return y;
}

Value RowwiseGraph::add_rms_norm(const Value& residual, const Value& x, const Parameter& w, float eps) {
  Value y = empty_like(x);
  ops::RowwiseInput sum(y.data);
  sum.residual = data_of(residual);
  sum.branch = data_of(x);
  sum.branch_weight = w.value();
  sum.norm = {eps};
  put_off_.push_back(std::move(sum));
  return y;
}

Value RowwiseGraph::add_scaled(const Value& a, const Value& b, float factor) {
  Value y = empty_like(a);
  ops::add_scaled(device(), data_of(a), data_of(b), factor, y.data);
  return y;
}

Value RowwiseGraph::scale(const Value& x, float factor) {
  if (factor == 1.0f) return x;
  if (const auto found = find(x); found != put_off_.end()) {
    found->factor *= factor;
    return x;
  }
  Value y = empty_like(x);
  ops::scale(device(), x.data, factor, y.data);
  return y;
}

Value RowwiseGraph::concat_columns(const Value& a, const Value& b) {
  Value y = empty_rows(a, a.data.size(1) + b.data.size(1));
  ops::concat_columns(device(), data_of(a), data_of(b), y.data);
  return y;
}

Value RowwiseGraph::columns(const Value& x, std::int64_t begin, std::int64_t count) {
  if (x.data.size(0) == 1) return constant(data_of(x).slice(begin, {1, count}));
  Value y = empty_rows(x, count);
  ops::copy_columns(device(), data_of(x), begin, y.data);
  return y;
}

Graph::Projections RowwiseGraph::heads(int layer, const Projections& projected, const HeadNorms& norms,
                                       const ops::Rope& rope) {
  Projections ready{.query = empty_like(projected.query), .key_value = {}};
  std::vector<ops::Heads> jobs;
  if (const auto& own = projected.key_value) {
    ready.key_value = cache_.rings(layer);
    jobs = {{own->key.data, norms.key->value(), true, ready.key_value->key.data, true},
            {own->value.data, Tensor(), false, ready.key_value->value.data, true}};
  }
  jobs.push_back({projected.query.data, norms.query.value(), true, ready.query.data});
  ops::rowwise_heads(device(), {norms.eps}, rope, places_, jobs);
  return ready;
}

Value RowwiseGraph::attention(const Value& q, const KeyValue& kv, const ops::AttentionMask& mask) {
  Value y = empty_like(q);
  ops::rowwise_attention(device(), mask, places_, q.data, kv.key.data, kv.value.data, y.data);
  return y;
}

Graph::Routing RowwiseGraph::choose_experts(const Value& logits, std::int64_t n, const Parameter& scale) {
  const Shape shape{logits.data.size(0), n};
  const ops::ExpertChoice choice{device().empty(shape, DType::i64), device().empty(shape), device().empty(shape)};
  ops::choose_experts_forward(device(), logits.data, scale.value(), choice);
  return {choice.experts, constant(choice.weights)};
}

Value RowwiseGraph::experts(const Value& x, const Routing& routing, const Parameter& gate_up, const Parameter& down) {
  Value y = empty_like(x);
  ops::rowwise_experts(device(), data_of(x), routing.experts, routing.weights.data, gate_up.value(), down.value(),
                       y.data);
  return y;
}

Graph::Lookup RowwiseGraph::lookup(const Parameter& table, const Tokens& tokens, float factor) {
  const Tensor rows = table.group().rows(tokens);
  ops::scale(device(), rows, rounded_to(rows.dtype(), factor), rows);
  return {constant(rows), {}};
}

std::vector<Value> RowwiseGraph::segment(std::vector<Value> inputs, Segment run, const std::string& part) {
  const Profile::InPart in_part(device().profile(), part);
  return run(*this, inputs);
}

}  // namespace mtp::decode
