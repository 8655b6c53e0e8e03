#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mtp/graph/parameter.h"
#include "mtp/ops/attention.h"
#include "mtp/ops/cross_entropy.h"
#include "mtp/ops/rope.h"
#include "mtp/ops/rowwise.h"
#include "mtp/tensor/device.h"

namespace mtp {

/// The gradient of one value: the sum of what its users gave, in the order of the backward.
class GradientSum {
 public:
  bool empty() const { return sum_.empty(); }
  void add(Device& device, Tensor gradient);
  /// Adds to columns begin … of a gradient [T, width].
  void add_columns(Device& device, const Tensor& gradient, std::int64_t begin, std::int64_t width);
  Tensor take() { return std::exchange(sum_, Tensor()); }

 private:
  Tensor sum_;
};

/// A tensor in a graph. Copies refer to the same value.
struct Value {
  Tensor data;
  std::shared_ptr<GradientSum> gradient = nullptr;  // null: no gradient flows here
  /// In a rowwise graph: what `data` will be, which its first user computes along with its own result.
  std::shared_ptr<std::optional<ops::RowwiseInput>> pending = nullptr;

  bool needs_gradient() const { return gradient != nullptr; }
};

/// Reverse-mode differentiation over `ops`: every member runs its operation at once and records how to go back.
/// Values and their gradients have the type of the parameters, fp32 or bf16; gradients of parameters are fp32.
/// Letters in names: T rows of packed sequences.
class Graph {
 public:
  /// What is kept for the backward. `recompute`: of a segment only its inputs, and it is run again.
  /// `rowwise`: for decoding, without a backward; a row's bits depend on this row alone, and keys and values may be a
  /// ring with those of earlier rows. See ops/rowwise.h. What comes between the products is computed within their
  /// kernels as far as can be.
  struct Options {
    bool recording = true;
    bool recompute = false;
    bool rowwise = false;
  };

  Graph(Device& device, Options options) : device_(device), options_(options) {
    MTP_ASSERT(!(options.rowwise && options.recording));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  Device& device() { return device_; }

  Value constant(Tensor data) { return {std::move(data), nullptr}; }

  /// x wᵀ.   x [T, in], w [out, in]
  Value linear(const Value& x, const Parameter& w);
  /// norm(x) w_iᵀ of up to three weights.
  std::vector<Value> norm_linear(const Value& x, const Parameter& norm, float eps, const std::vector<Parameter>& w);
  /// gelu(n gateᵀ) · (n upᵀ) with n = norm(x).
  Value norm_gated_linear(const Value& x, const Parameter& norm, float eps, const Parameter& gate, const Parameter& up);
  /// gelu(x wᵀ) · factors
  Value gate(const Value& x, const Parameter& w, const Value& factors);
  /// Norm over the last dimension with scale.
  Value rms_norm(const Value& x, const Parameter& w, float eps);
  /// residual + norm over the last dimension with scale.
  Value add_rms_norm(const Value& residual, const Value& x, const Parameter& w, float eps);
  /// Norm over the last dimension without scale.
  Value rms_norm(const Value& x, float eps);
  Value add(const Value& a, const Value& b);
  Value add_scaled(const Value& a, const Value& b, float factor);
  Value scale(const Value& x, float factor);
  Value concat_columns(const Value& a, const Value& b);
  /// Columns begin … begin + count - 1.
  Value columns(const Value& x, std::int64_t begin, std::int64_t count);
  /// gelu(gate) · up
  Value gated_gelu(const Value& gate, const Value& up);
  Value rope(const Value& x, const ops::Rope& rope, const ops::Sequences& sequences);
  /// A projection on its way to attention: rope(norm(x)).   x [T, heads, d]
  struct Heads {
    Value x;
    const Parameter* norm;  // null: without scale
    bool is_rotated;
    Tensor ring = {};  // of a rowwise graph: where the rows go, and what the result is
  };
  /// Of up to three projections.
  std::vector<Value> heads(const std::vector<Heads>& heads, float eps, const ops::Rope& rope,
                           const ops::Sequences& sequences);
  Value attention(const Value& q, const Value& k, const Value& v, const ops::AttentionMask& mask,
                  const ops::Sequences& sequences);
  /// Rows of a table, which need not be acquired. As in Hugging Face's models, `factor` is rounded to their type.
  struct Lookup {
    Value rows;       // factor · table[ids]   [n, width]
    Tensor skip_row;  // factor · table[skip]  [1, width]
  };
  /// Rows of id `skip` give the table no gradient. At most once a micro-batch and table.
  Lookup lookup(const Parameter& table, std::span<const std::int64_t> ids, float factor, std::int64_t skip);
  /// The same for a graph that records nothing, of ids [n] int64 on the device.
  Value lookup(const Parameter& table, const Tensor& ids, float factor);
  Value shift_rows(const Value& x, const Tensor& fill, std::int64_t by, const ops::Sequences& sequences);
  Value view(const Value& x, Shape shape);

  /// The losses: the plain sum as one fp64 element. Their gradient, times `gradient_scale`, is computed at once and
  /// goes on from there in the backward. See ops/cross_entropy.h.
  Tensor cross_entropy(const ops::CrossEntropy& ce, const Value& x, const Parameter& w, const Tensor& labels);
  Tensor distillation(const ops::CrossEntropy& ce, const Value& x, const Parameter& w, const ops::Teacher& teacher,
                      const Tensor& teacher_rows);
  Tensor masked_cross_entropy(const ops::CrossEntropy& ce, const ops::MaskedHead& head, const Value& x,
                              const Parameter& w, const ops::Sequences& sequences, const Tensor& labels);
  Tensor masked_distillation(const ops::CrossEntropy& ce, const ops::MaskedHead& head, const Value& x,
                             const Parameter& w, const ops::Sequences& sequences, const ops::Teacher& teacher,
                             const Tensor& teacher_rows);

  using Segment = std::function<std::vector<Value>(Graph&, std::span<const Value>)>;

  /// A part of a model with its inputs and outputs, such as a layer: what activation checkpointing keeps or runs again.
  /// The gradients within a segment are summed apart from those outside, whether it is run again or not, so that the
  /// bits are the same. `part`: its name in profiles, forward and backward; empty for none of its own.
  std::vector<Value> segment(std::vector<Value> inputs, Segment run, const std::string& part = {});

  /// What is done with a group in its scope.
  enum class Use {
    values,          // its values are needed, in the backward again
    forward_values,  // … in the forward only
    rows,            // it is a table whose rows are looked up: it is never gathered
  };

  /// Acquires a group for as long as the returned object lives; so does the backward, which reduces its gradients at
  /// the end.
  class Scope {
   public:
    ~Scope();
    Scope(Scope&& other) noexcept
        : graph_(std::exchange(other.graph_, nullptr)), group_(other.group_), use_(other.use_), begin_(other.begin_) {}
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    Scope& operator=(Scope&&) = delete;

   private:
    friend class Graph;
    Scope(Graph& graph, ParameterGroup& group, Use use);

    Graph* graph_;
    ParameterGroup* group_;
    Use use_;
    std::size_t begin_;
  };
  Scope scope(ParameterGroup& group, Use use = Use::values) { return Scope(*this, group, use); }

  /// Runs back through everything recorded, and forgets it.
  void backward();

 private:
  using Step = std::function<void()>;
  using LossOperation = std::function<void(const Tensor& loss, const Tensor& dx, const Tensor& dw)>;

  Tensor empty_like(const Tensor& x);
  /// The value's data, computed now if it was put off.
  const Tensor& data_of(const Value& x);
  /// In a rowwise graph: x as a product takes it, with what it computes before.
  ops::RowwiseInput input_of(const Value& x, const Parameter* norm, float eps);
  Value empty_rows(const Value& x, std::int64_t width);
  /// An output of an operation whose inputs are `needs_gradient`.
  Value output(Tensor data, bool needs_gradient) const;
  /// Calls `step(dy)` in the backward if a gradient came to `y`.
  void on_backward(const Value& y, std::function<void(const Tensor& dy)> step);
  Value rms_norm(const Value* residual, const Value& x, const Parameter* w, float eps);
  Tensor loss(const Value& x, const Parameter& w, const LossOperation& run);

  Device& device_;
  Options options_;
  std::vector<Step> tape_;
};

}  // namespace mtp
