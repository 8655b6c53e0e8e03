#pragma once

#include <string>
#include <vector>

#include "mtp/decode/cache.h"
#include "mtp/graph/graph.h"
#include "mtp/graph/tape.h"
#include "mtp/ops/rowwise.h"

namespace mtp::decode {

/// Over a text's first rows: like a tape that records nothing, and keeps the layers' keys and values.
class PromptGraph final : public Tape {
 public:
  /// `text`: its place in the cache.
  PromptGraph(Device& device, const ops::Sequences& sequences, const Cache& cache, std::int64_t text)
      : Tape(device, sequences, {.recording = false}), cache_(cache), text_(text) {}

  Projections heads(int layer, const Projections& projected, const HeadNorms& norms, const ops::Rope& rope) override;

 private:
  const Cache& cache_;
  std::int64_t text_;
};

/// Over the next few rows of some texts: a row's bits depend on this row alone and on what the cache holds of those
/// before it in its text, where its own keys and values go. See ops/rowwise.h. Norms and sums between products are put
/// off until the product that they go into, whose kernel computes them.
class RowwiseGraph final : public Graph {
 public:
  /// `places`: of the rows, which the device reads when it computes.
  RowwiseGraph(Device& device, ops::RowPlaces places, const Cache& cache)
      : Graph(device), places_(std::move(places)), cache_(cache) {}

  Value linear(const Value& x, const Linear& w) override;
  std::vector<Value> norm_linear(const Value& x, const Parameter& norm, float eps,
                                 const std::vector<Linear>& w) override;
  Value norm_gated_linear(const Value& x, const Parameter& norm, float eps, const Linear& gate,
                          const Linear& up) override;
  Value gate(const Value& x, const Linear& w, const Value& factors) override;
  Value rms_norm(const Value& x, const Parameter& w, float eps) override;
  Value add_rms_norm(const Value& residual, const Value& x, const Parameter& w, float eps) override;
  Value add_scaled(const Value& a, const Value& b, float factor) override;
  Value scale(const Value& x, float factor) override;
  Value concat_columns(const Value& a, const Value& b) override;
  Value columns(const Value& x, std::int64_t begin, std::int64_t count) override;
  Value view(const Value& x, Shape shape) override { return constant(data_of(x).view(std::move(shape))); }
  Value convert(const Value& x, DType dtype) override { return constant(in_type(data_of(x), dtype)); }
  Projections heads(int layer, const Projections& projected, const HeadNorms& norms, const ops::Rope& rope) override;
  Value attention(const Value& q, const KeyValue& kv, const ops::AttentionMask& mask) override;
  Routing choose_experts(const Value& logits, std::int64_t n, const Parameter& scale) override;
  Value experts(const Value& x, const Routing& routing, const Parameter& gate_up, const Parameter& down) override;
  Lookup lookup(const Parameter& table, const Tokens& tokens, float factor) override;
  std::vector<Value> segment(std::vector<Value> inputs, Segment run, const std::string& part) override;

 private:
  Value empty_like(const Value& x) { return constant(device().empty(x.data.shape(), x.data.dtype())); }
  Value empty_rows(const Value& x, std::int64_t width);
  Tensor in_type(const Tensor& x, DType dtype);
  /// A value's data, computed now if they were put off.
  const Tensor& data_of(const Value& x);
  /// x as a product takes it, with what was put off and the norm before it.
  ops::RowwiseInput input_of(const Value& x);
  ops::RowwiseInput input_of(const Value& x, const Parameter& norm, float eps);
  /// Place in `put_off_`, or its end.
  std::vector<ops::RowwiseInput>::iterator find(const Value& x);

  ops::RowPlaces places_;
  const Cache& cache_;
  std::vector<ops::RowwiseInput> put_off_;  // each still to be written into its `x`
};

}  // namespace mtp::decode
