#pragma once

#include "mtp/tensor/tensor.h"

namespace mtp {

/// Parameters that are gathered, used and released together. Their values are there between `acquire` and `release`
/// only; a graph opens and closes them through `Graph::scope`, in the backward too.
class ParameterGroup {
 public:
  virtual ~ParameterGroup() = default;

  virtual bool trained() const = 0;
  /// Makes the values available. Calls nest.
  virtual void acquire() = 0;
  virtual void release() = 0;
  /// Hands this micro-batch's gradients to whoever adds them up; called once a micro-batch, after their last use.
  virtual void reduce_gradients() = 0;

  /// Parameter `index` of the group; its gradient is added to and starts at zero in each micro-batch.
  virtual Tensor value(std::size_t index) const = 0;
  virtual Tensor gradient(std::size_t index) = 0;
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
