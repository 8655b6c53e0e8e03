#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "mtp/graph/expert_exchange.h"
#include "mtp/graph/graph.h"
#include "mtp/ops/conformer.h"
#include "mtp/ops/cross_entropy.h"
#include "mtp/ops/elementwise.h"
#include "mtp/ops/patch_grids.h"
#include "mtp/ops/sequences.h"

namespace mtp {

/// Reverse-mode differentiation over `ops`: every member runs its operation at once and records how to go back.
/// Values and their gradients have the type of the parameters, fp32 or bf16; gradients of parameters are fp32.
class Tape : public Graph {
 public:
  /// What is kept for the backward. `recompute`: of a segment only its inputs, and it is run again.
  struct Options {
    bool recording = true;
    bool recompute = false;
  };

  /// `sequences`: those of the rows; they must live until the backward is done.
  Tape(Device& device, const ops::Sequences& sequences, Options options)
      : Graph(device), sequences_(sequences), options_(options) {}

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
  Value view(const Value& x, Shape shape) override;
  Value convert(const Value& x, DType dtype) override;
  Projections heads(int layer, const Projections& projected, const HeadNorms& norms, const ops::Rope& rope) override;
  Value attention(const Value& q, const KeyValue& kv, const ops::AttentionMask& mask) override;
  Routing choose_experts(const Value& logits, std::int64_t n, const Parameter& scale) override;
  Value experts(const Value& x, const Routing& routing, const Parameter& gate_up, const Parameter& down) override;
  Lookup lookup(const Parameter& table, const Tokens& tokens, float factor) override;
  /// The gradients within a segment are summed apart from those outside, whether it is run again or not, so that the
  /// bits are the same.
  std::vector<Value> segment(std::vector<Value> inputs, Segment run, const std::string& part = {}) override;

  /// Norm over the last dimension without scale.
  Value rms_norm(const Value& x, float eps);
  /// Over the last dimension; `bias`: may be none. See ops/layer_norm.h.
  Value layer_norm(const Value& x, const Parameter& w, const std::optional<Parameter>& bias, float eps);
  /// x + bias in every row.
  Value add_bias(const Value& x, const Parameter& bias);
  Value add(const Value& a, const Value& b);
  /// gelu(gate) · up
  Value gated_gelu(const Value& gate, const Value& up);
  Value rope(const Value& x, const ops::Rope& rope);
  /// See ops/rope.h.   positions [2, T] int64: x and y of every row
  Value rope_2d(const Value& x, const ops::Rope& rope, const Tensor& positions);
  Value clamp(const Value& x, const ops::Bounds& bounds);
  /// x with rows[r] replaced by features[r].   x [T, W], features [R, W], rows [R] int64, each of them once
  Value put_rows(const Value& x, const Value& features, const Tensor& rows);
  /// Rows of a parameter of an acquired group, as its last dimension counts them.   table [rows…, W], ids [T] int64
  Value rows_of(const Parameter& table, const Tensor& ids);
  /// Means of squares of patches, times `factor`, in fp32. See ops/vision.h; `grids` must live until the backward is
  /// done.
  Value pool_patches(const Value& x, const ops::PatchGrids& grids, std::int64_t k, float factor);
  /// (x - bias) · scale of fp32 rows, in another type.   bias, scale [W]
  Value standardize(const Value& x, const Tensor& bias, const Tensor& scale, DType dtype);
  // See ops/conformer.h.
  Value activation(ops::Activation kind, const Value& x);
  Value gated_sigmoid(const Value& x);
  Value neighbours(const Value& x, const ops::SoundGrid& in, const ops::SoundGrid& out);
  Value causal_convolution(const Value& x, const Parameter& w);
  Value scale_by_softplus(const Value& x, const Parameter& s, float factor);
  /// q, k, v [T, heads, d], r [span, heads, d], all fp32
  Value local_attention(const Value& q, const KeyValue& kv, const Value& r, const ops::LocalAttention& attention);

  /// Row t of each sequence becomes row t + `by`, or `fill` past the end.
  Value shift_rows(const Value& x, const Tensor& fill, std::int64_t by);

  /// The losses: the plain sum as one fp64 element. Their gradient, times `gradient_scale`, is computed at once and
  /// goes on from there in the backward. See ops/cross_entropy.h.
  Tensor cross_entropy(const ops::CrossEntropy& ce, const Value& x, const Parameter& w, const Tensor& labels);
  Tensor distillation(const ops::CrossEntropy& ce, const Value& x, const Parameter& w, const ops::Teacher& teacher,
                      const Tensor& teacher_rows);
  Tensor masked_cross_entropy(const ops::CrossEntropy& ce, const ops::MaskedHead& head, const Value& x,
                              const Parameter& w, const Tensor& labels);
  Tensor masked_distillation(const ops::CrossEntropy& ce, const ops::MaskedHead& head, const Value& x,
                             const Parameter& w, const ops::Teacher& teacher, const Tensor& teacher_rows);

  /// Runs back through everything recorded, and forgets it.
  void backward();

 private:
  using Step = std::function<void()>;
  using LossOperation = std::function<void(const Tensor& loss, const Tensor& dx, const Tensor& dw)>;

  std::size_t begin_scope(ParameterGroup& group, Use use) override;
  void end_scope(ParameterGroup& group, Use use, std::size_t place) override;

  Tensor empty_like(const Tensor& x) { return device().empty(x.shape(), x.dtype()); }
  /// An output of an operation whose inputs are `needs_gradient`.
  static Value output(Tensor data, bool needs_gradient);
  /// Calls `step(dy)` in the backward if a gradient came to `y`.
  void on_backward(const Value& y, std::function<void(const Tensor& dy)> step);
  /// x wᵀ; a weight of more dimensions counts as a matrix of its first one.
  Value product(const Value& x, const Parameter& w);
  Tensor in_type(const Tensor& x, DType dtype);
  /// Row r of the result is row rows[r] of x: those of each pair of a row and an expert.
  Value gather(const Value& x, const ops::ExpertPairs& pairs);
  /// x [P, H] of the pairs of each source, one after the other's.
  Value expert_layers(const Value& x, const Parameter& gate_up, const Parameter& down,
                      const std::vector<ops::ExpertPairs>& sources);
  Value expert_linear(const Value& x, const Parameter& w, const std::vector<ops::ExpertPairs>& sources);
  using Routes = std::shared_ptr<const ExpertExchange::Routes>;
  Value send(const Value& rows, const ExpertExchange& exchange, const Routes& routes);
  Value send_back(const Value& rows, const ExpertExchange& exchange, const Routes& routes);
  Value add_pairs(const Value& x, const Value& weights, const ops::ExpertPairs& pairs);
  Value norm(const Value* residual, const Value& x, const Parameter* w, float eps);
  Tensor loss(const Value& x, const Parameter& w, const LossOperation& run);

  const ops::Sequences& sequences_;
  Options options_;
  std::vector<Step> steps_;
};

}  // namespace mtp
