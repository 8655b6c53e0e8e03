#pragma once

#include "mtp/tensor/tensor.h"

namespace mtp {

/// Gradients of a table's rows: row ids[i] gets factor · gradients[i], added in the order of i, but for the id `skip`.
struct RowGradients {
  Tensor ids;        // [n] int64
  Tensor gradients;  // [n, width] fp32 or bf16
  float factor = 1;
  std::int64_t skip = -1;
};

/// Parameters that are gathered, used and released together. Their values are there between `acquire` and `release`
/// only; a graph opens and closes them through `Graph::scope`, in the backward too.
class ParameterGroup {
 public:
  virtual ~ParameterGroup() = default;

  /// For profiles.
  virtual std::string name() const = 0;
  virtual bool trained() const = 0;
  /// Makes the values available. Calls nest.
  virtual void acquire() = 0;
  virtual void release() = 0;
  /// Hands this micro-batch's gradients to whoever adds them up; called once a micro-batch, after their last use.
  virtual void reduce_gradients() = 0;

  /// Parameter `index` of the group in the type that is computed with; its gradient is fp32, is added to and starts at
  /// zero in each micro-batch.
  virtual Tensor value(std::size_t index) const = 0;
  virtual Tensor gradient(std::size_t index) = 0;

  /// Rows of the group's only parameter, a table, without acquiring it.   ids [n] int64, result [n, width] of the type
  /// of `value`
  virtual Tensor rows(const Tensor& ids) = 0;
  /// Adds row gradients of this micro-batch, after what went into `gradient`. At most once a micro-batch.
  virtual void add_row_gradients(const RowGradients& rows) = 0;
};

/// A named tensor of a group, as a model holds it.
struct Parameter {
  ParameterGroup* group = nullptr;
  std::size_t index = 0;
  Shape shape;

  bool trained() const { return group->trained(); }
  Tensor value() const { return group->value(index); }
  Tensor gradient() const { return group->gradient(index); }
};

}  // namespace mtp
