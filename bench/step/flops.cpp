#include "flops.h"

#include "mtp/ops/attention.h"

namespace mtp::bench {

namespace {

constexpr double products_of_weight = 3;     // forward, gradient of the input, gradient of the weight
constexpr double products_of_attention = 6;  // q kᵀ and p v, and the gradients of both factors of each

/// Multiplications of a weight's elements with `rows` rows.
double linear(std::int64_t rows, std::int64_t in, std::int64_t out) {
  return static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out);
}

/// Pairs of a query and a key that it sees.
double visible(const ops::AttentionMask& mask, std::int64_t length) {
  double pairs = 0;
  for (std::int64_t t = 0; t < length; ++t) pairs += static_cast<double>(mask.end(t, length) - mask.begin(t, length));
  return pairs;
}

/// FLOPs of the layers for `length` rows, whose queries stand `offset` positions after them.
double layers(const hf::TextConfig& config, std::int64_t length, std::int64_t offset) {
  double weights = 0, attention = 0;
  for (const hf::LayerShape& layer : config.layers) {
    const std::int64_t hidden = config.hidden_size, queries = config.num_attention_heads * layer.head_dim;
    const std::int64_t projections = layer.shares_kv ? 0 : layer.k_eq_v ? 1 : 2;
    weights += 2 * linear(length, hidden, queries) +
               static_cast<double>(projections) * linear(length, hidden, layer.kv_heads * layer.head_dim) +
               3 * linear(length, hidden, layer.intermediate_size) +
               2 * linear(length, hidden, config.hidden_size_per_layer_input);
    const ops::AttentionMask mask{.window = layer.is_sliding ? config.sliding_window : 0, .offset = offset};
    attention += visible(mask, length) * static_cast<double>(queries);
  }
  return 2 * (products_of_weight * weights + products_of_attention * attention);
}

}  // namespace

double model_flops(const hf::BaseConfig& base, const hf::DrafterConfig& drafter, const StepShape& step) {
  const hf::TextConfig &b = base.text, &d = drafter.text;
  const std::int64_t per_layer_inputs = b.num_hidden_layers * b.hidden_size_per_layer_input;
  double weights = linear(step.length, b.hidden_size, per_layer_inputs + b.vocab_size);
  double flops = layers(b, step.length, 0);
  for (std::int64_t k = 0; k < step.rounds; ++k) {
    flops += layers(d, step.length, 1);
    weights += linear(step.length, 2 * b.hidden_size, d.hidden_size);
    weights += linear(step.length - (k + 1), d.hidden_size, d.vocab_size);  // rows with a label
    if (k + 1 < step.rounds) weights += linear(step.length, d.hidden_size, b.hidden_size);
  }
  return flops + 2 * products_of_weight * weights;
}

}  // namespace mtp::bench
