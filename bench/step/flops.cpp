#include "flops.h"

#include "support/products.h"

namespace mtp::bench {

namespace {

constexpr double products_of_weight = 3;     // forward, gradient of the input, gradient of the weight
constexpr double products_of_attention = 6;  // q kᵀ and p v, and the gradients of both factors of each

/// FLOPs of the layers for `length` rows, whose queries stand `offset` positions after them.
double layers(const hf::TextConfig& config, std::int64_t length, std::int64_t offset) {
  double weights = 0, attention = 0;
  for (const hf::LayerShape& layer : config.layers) {
    const std::int64_t hidden = config.hidden_size, queries = config.num_attention_heads * layer.head_dim;
    const std::int64_t projections = layer.shares_kv ? 0 : layer.k_eq_v ? 1 : 2;
    const std::int64_t columns = 2 * queries + projections * layer.kv_heads * layer.head_dim +
                                 3 * (layer.intermediate_size + config.top_k_experts * config.moe_intermediate_size) +
                                 config.num_experts + 2 * config.hidden_size_per_layer_input;
    weights += product_flops(length, hidden, columns);
    const ops::AttentionMask mask{.window = layer.is_sliding ? config.sliding_window : 0, .offset = offset};
    attention += 2 * visible_pairs(mask, length) * static_cast<double>(queries);
  }
  return products_of_weight * weights + products_of_attention * attention;
}

}  // namespace

double model_flops(const hf::BaseConfig& base, const hf::DrafterConfig& drafter, const StepShape& step) {
  const hf::TextConfig &b = base.text, &d = drafter.text;
  const std::int64_t per_layer_inputs = b.num_hidden_layers * b.hidden_size_per_layer_input;
  double weights = product_flops(step.length, b.hidden_size, per_layer_inputs + b.vocab_size);
  double flops = layers(b, step.length, 0);
  for (std::int64_t k = 0; k < step.rounds; ++k) {
    flops += layers(d, step.length, 1);
    weights += product_flops(step.length, 2 * b.hidden_size, d.hidden_size);
    weights += product_flops(step.length - (k + 1), d.hidden_size, d.vocab_size);  // rows with a label
    if (k + 1 < step.rounds) weights += product_flops(step.length, d.hidden_size, b.hidden_size);
  }
  return flops + products_of_weight * weights;
}

}  // namespace mtp::bench
