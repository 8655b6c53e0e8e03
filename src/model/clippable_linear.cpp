#include "mtp/model/clippable_linear.h"

#include <limits>

namespace mtp::model {

ClippableLinear::ClippableLinear(const Tensors& tensors, std::int64_t out, std::int64_t in, bool clipped)
    : weight_(tensors.matrix("linear", out, in)) {
  if (!clipped) return;
  constexpr float none = std::numeric_limits<float>::infinity();
  const auto bound = [&](const char* name, float start) {
    return tensors.buffer(name, {}, {Start::Kind::constant, start});
  };
  clips_ = {bound("input_min", -none), bound("input_max", none), bound("output_min", -none), bound("output_max", none)};
}

void ClippableLinear::read_buffers(const hf::TensorFiles& files) {
  if (!clips_) return;
  input_ = {clips_->input_min.read(files).front(), clips_->input_max.read(files).front()};
  output_ = {clips_->output_min.read(files).front(), clips_->output_max.read(files).front()};
}

Value ClippableLinear::forward(Tape& g, const Value& x) const {
  if (!clips_) return g.linear(x, weight_);
  return g.clamp(g.linear(g.clamp(x, input_), weight_), output_);
}

}  // namespace mtp::model
