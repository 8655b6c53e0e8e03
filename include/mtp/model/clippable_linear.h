#pragma once

#include <cstdint>
#include <optional>

#include "mtp/graph/tape.h"
#include "mtp/hf/safetensors.h"
#include "mtp/model/tensors.h"

namespace mtp::model {

/// A linear layer whose input and output are kept within bounds, which are buffers of its file.
/// Source: Gemma4ClippableLinear, Hugging Face modeling_gemma4.py.
class ClippableLinear {
 public:
  ClippableLinear(const Tensors& tensors, std::int64_t out, std::int64_t in, bool clipped);

  /// Throws Error where a bound is missing.
  void read_buffers(const hf::TensorFiles& files);
  Value forward(Tape& g, const Value& x) const;

 private:
  Parameter weight_;
  struct Clips {
    Buffer input_min, input_max, output_min, output_max;
  };
  std::optional<Clips> clips_;
  ops::Bounds input_{}, output_{};
};

}  // namespace mtp::model
