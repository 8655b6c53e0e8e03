#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "mtp/graph/linear.h"
#include "mtp/graph/parameter.h"
#include "mtp/graph/value.h"
#include "mtp/ops/attention.h"
#include "mtp/ops/experts.h"
#include "mtp/ops/rope.h"

namespace mtp {

/// The calls that a model's forward is written in. `Tape` (graph/tape.h) carries them out over whole sequences and can
/// go back through them; decoding (decode/rowwise_graph.h) carries them out for the next few rows of a text. A
/// graph is made for the rows of one forward: it knows their sequences and positions.
///
/// Calls that stand for several operations (`norm_linear`, `heads`, …) are those that decoding computes in one kernel.
/// Letters in names: T rows of packed sequences. What is passed by reference (parameters, ropes) belongs to the model,
/// which must outlive the graph.
class Graph {
 public:
  explicit Graph(Device& device) : device_(device) {}
  virtual ~Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  Device& device() const { return device_; }

  /// A value that no gradient flows into.
  static Value constant(Tensor data) { return {std::move(data), nullptr}; }

  /// w(x), which is x wᵀ and what the layer's adapter adds to it.   x [T, in], the result [T, out]
  virtual Value linear(const Value& x, const Linear& w) = 0;
  /// w_i(norm(x)) of up to three layers.
  virtual std::vector<Value> norm_linear(const Value& x, const Parameter& norm, float eps,
                                         const std::vector<Linear>& w) = 0;
  /// gelu(gate(n)) · up(n) with n = norm(x).
  virtual Value norm_gated_linear(const Value& x, const Parameter& norm, float eps, const Linear& gate,
                                  const Linear& up) = 0;
  /// gelu(w(x)) · factors
  virtual Value gate(const Value& x, const Linear& w, const Value& factors) = 0;
  /// Norm over the last dimension with scale.
  virtual Value rms_norm(const Value& x, const Parameter& w, float eps) = 0;
  /// residual + norm over the last dimension with scale.
  virtual Value add_rms_norm(const Value& residual, const Value& x, const Parameter& w, float eps) = 0;
  /// (a + b) · factor
  virtual Value add_scaled(const Value& a, const Value& b, float factor) = 0;
  /// x · factor. Nothing else may use x.
  virtual Value scale(const Value& x, float factor) = 0;
  virtual Value concat_columns(const Value& a, const Value& b) = 0;
  /// Columns begin … begin + count - 1.
  virtual Value columns(const Value& x, std::int64_t begin, std::int64_t count) = 0;
  virtual Value view(const Value& x, Shape shape) = 0;
  /// x in another type. Norms and products of fp32 rows are computed in fp32, whatever the type of their parameters.
  virtual Value convert(const Value& x, DType dtype) = 0;

  /// A layer's projections, before or after norm and rope: its queries, and its keys and values if it has its own.
  struct Projections {
    Value query;  // [T, heads, d]
    std::optional<KeyValue> key_value;
  };
  struct HeadNorms {
    Parameter query;
    std::optional<Parameter> key;  // values have a norm without scale
    float eps;
  };
  /// Queries and keys normed and rotated, values normed. `layer`: whose keys and values they are.
  virtual Projections heads(int layer, const Projections& projected, const HeadNorms& norms, const ops::Rope& rope) = 0;
  /// q [T, heads, d], the result alike
  virtual Value attention(const Value& q, const KeyValue& kv, const ops::AttentionMask& mask) = 0;

  /// Which experts each row goes to; see ops/experts.h.
  struct Routing {
    Tensor experts;               // [T, n] int64
    Value weights;                // [T, n] fp32
    ops::ExpertPairs pairs = {};  // of whole sequences
  };
  /// The n experts with the largest logits, which have the weights softmax(logits of these) · scale.
  ///   logits [T, E] fp32, scale [E]
  virtual Routing choose_experts(const Value& logits, std::int64_t n, const Parameter& scale) = 0;
  /// Σ weight · down(gelu(gate x) · (up x)) over each row's experts.   gate_up [E, 2 · I, H], gates first, down [E, H,
  /// I]
  virtual Value experts(const Value& x, const Routing& routing, const Parameter& gate_up, const Parameter& down) = 0;

  struct Lookup {
    Value rows;       // factor · table[id] of each token   [T, width]
    Tensor fill_row;  // factor · table[tokens.fill]   [1, width]; empty where the tokens have none
  };
  /// Rows of a table, which need not be acquired. As in Hugging Face's models, `factor` is rounded to their type. At
  /// most once a table where a backward follows.
  virtual Lookup lookup(const Parameter& table, const Tokens& tokens, float factor) = 0;

  /// A part of a model with its inputs and outputs, such as a layer: what activation checkpointing keeps or runs again.
  using Segment = std::function<std::vector<Value>(Graph&, std::span<const Value>)>;
  /// `part`: its name in profiles; empty for none of its own.
  virtual std::vector<Value> segment(std::vector<Value> inputs, Segment run, const std::string& part = {}) = 0;

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
        : graph_(std::exchange(other.graph_, nullptr)), group_(other.group_), use_(other.use_), place_(other.place_) {}
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    Scope& operator=(Scope&&) = delete;

   private:
    friend class Graph;
    Scope(Graph& graph, ParameterGroup& group, Use use);

    Graph* graph_;
    ParameterGroup* group_;
    Use use_;
    std::size_t place_;
  };
  Scope scope(ParameterGroup& group, Use use = Use::values) { return Scope(*this, group, use); }

 private:
  /// A scope begins; its end gets back what this returns.
  virtual std::size_t begin_scope(ParameterGroup&, Use) { return 0; }
  virtual void end_scope(ParameterGroup&, Use, std::size_t) {}

  Device& device_;
};

}  // namespace mtp
