#pragma once

#include "mtp/graph/tape.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

/// Makes soft tokens of what an encoder gives: a norm without scale, and a projection into the text model's width.
/// Source: Gemma4MultimodalEmbedder, Hugging Face modeling_gemma4.py.
class Projector {
 public:
  Projector() = default;
  /// `tensors`: its own alone, in its unit. `hidden`: width of the text model.
  Projector(const Tensors& tensors, std::int64_t hidden, std::int64_t width, float eps)
      : projection_(tensors.matrix("embedding_projection", hidden, width)), eps_(eps) {}

  bool trained() const { return projection_.trained(); }
  /// features [R, width], the result [R, hidden] in the type of the weight
  Value forward(Tape& g, const Value& features) const {
    const Graph::Scope weights = g.scope(projection_.group());
    return g.linear(g.rms_norm(g.convert(features, projection_.value().dtype()), eps_), projection_);
  }

 private:
  Parameter projection_;
  float eps_ = 0;
};

}  // namespace mtp::model
