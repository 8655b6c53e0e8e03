#include "mtp/model/vision_tower.h"

#include <cmath>

#include "mtp/model/open_units.h"

namespace mtp::model {

VisionLayer::VisionLayer(const Tensors& tensors, const hf::VisionConfig& config)
    : name_(tensors.unit()),
      heads_(config.num_attention_heads),
      kv_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim),
      eps_(config.rms_norm_eps),
      input_norm_(tensors.vector("input_layernorm", config.hidden_size)),
      q_proj_(tensors.below("self_attn.q_proj."), heads_ * head_dim_, config.hidden_size, config.use_clipped_linears),
      k_proj_(tensors.below("self_attn.k_proj."), kv_heads_ * head_dim_, config.hidden_size,
              config.use_clipped_linears),
      v_proj_(tensors.below("self_attn.v_proj."), kv_heads_ * head_dim_, config.hidden_size,
              config.use_clipped_linears),
      o_proj_(tensors.below("self_attn.o_proj."), config.hidden_size, heads_ * head_dim_, config.use_clipped_linears),
      q_norm_(tensors.head_norm("self_attn.q_norm", head_dim_)),
      k_norm_(tensors.head_norm("self_attn.k_norm", head_dim_)),
      post_attention_norm_(tensors.vector("post_attention_layernorm", config.hidden_size)),
      pre_feedforward_norm_(tensors.vector("pre_feedforward_layernorm", config.hidden_size)),
      gate_proj_(tensors.below("mlp.gate_proj."), config.intermediate_size, config.hidden_size,
                 config.use_clipped_linears),
      up_proj_(tensors.below("mlp.up_proj."), config.intermediate_size, config.hidden_size, config.use_clipped_linears),
      down_proj_(tensors.below("mlp.down_proj."), config.hidden_size, config.intermediate_size,
                 config.use_clipped_linears),
      post_feedforward_norm_(tensors.vector("post_feedforward_layernorm", config.hidden_size)),
      parameters_(tensors.declared()) {}

void VisionLayer::read_buffers(const hf::TensorFiles& files) {
  for (ClippableLinear* linear : {&q_proj_, &k_proj_, &v_proj_, &o_proj_, &gate_proj_, &up_proj_, &down_proj_})
    linear->read_buffers(files);
}

Value VisionLayer::forward(Tape& graph, const Value& x_PV, const ops::Rope& rope, const Tensor& positions) const {
  const auto run = [this, &rope, positions](Graph& segment, std::span<const Value> values) {
    auto& g = static_cast<Tape&>(segment);  // a tape's segments run on tapes
    Value x = g.add_rms_norm(values[0], attention(g, values[0], rope, positions), post_attention_norm_, eps_);
    return std::vector{g.add_rms_norm(x, feed_forward(g, x), post_feedforward_norm_, eps_)};
  };
  return graph.segment({x_PV}, run, name_)[0];
}

Value VisionLayer::attention(Tape& g, const Value& x_PV, const ops::Rope& rope, const Tensor& positions) const {
  const std::int64_t rows = x_PV.data.size(0);
  const Value n = g.rms_norm(x_PV, input_norm_, eps_);
  const Value q = g.view(q_proj_.forward(g, n), {rows, heads_, head_dim_});
  const Value k = g.view(k_proj_.forward(g, n), {rows, kv_heads_, head_dim_});
  const Value v = g.view(v_proj_.forward(g, n), {rows, kv_heads_, head_dim_});
  const Value turned_q = g.rope_2d(g.rms_norm(q, q_norm_, eps_), rope, positions);
  const Value turned_k = g.rope_2d(g.rms_norm(k, k_norm_, eps_), rope, positions);
  const Value mixed =
      g.attention(turned_q, {turned_k, g.rms_norm(v, eps_)}, {.kind = ops::AttentionMask::Kind::everything});
  return o_proj_.forward(g, g.view(mixed, {rows, heads_ * head_dim_}));
}

Value VisionLayer::feed_forward(Tape& g, const Value& x_PV) const {
  const Value n = g.rms_norm(x_PV, pre_feedforward_norm_, eps_);
  return down_proj_.forward(g, g.gated_gelu(gate_proj_.forward(g, n), up_proj_.forward(g, n)));
}

VisionTower::VisionTower(const Tensors& all, const hf::VisionConfig& config, std::int64_t hidden,
                         const Settings::Freeze& freeze)
    : config_(config), rope_{config.rope_inverse_frequencies()} {
  const std::int64_t width = config.hidden_size;
  const Tensors tower = all.below("model.vision_tower.");
  const auto in_unit = [&](const std::string& unit) {
    return tower.in_unit("base.vision." + unit, !freeze.base && !freeze.vision);
  };
  const Tensors embedder = in_unit("patch_embedder").below("patch_embedder.");
  patch_projection_ = embedder.matrix("input_proj", width, config.patch_values());
  position_table_ = embedder.positions("position_embedding_table", {2, config.position_embedding_size, width});
  for (int i = 0; i < config.num_hidden_layers; ++i) {
    const std::string name = "layers." + std::to_string(i);
    layers_.emplace_back(in_unit(name).below("encoder." + name + "."), config);
  }
  if (config.standardize)
    standard_ = {tower.buffer("std_bias", {width}, {Start::Kind::constant, 0}),
                 tower.buffer("std_scale", {width}, {Start::Kind::constant, 1})};
  projector_ = Projector(
      all.in_unit("base.vision.projector", !freeze.base && !freeze.vision_projector).below("model.embed_vision."),
      hidden, config.hidden_size, config.rms_norm_eps);
}

void VisionTower::read_buffers(const hf::TensorFiles& files) {
  for (VisionLayer& layer : layers_) layer.read_buffers(files);
  if (!standard_) return;
  bias_V_ = standard_->bias.read(files);
  scale_V_ = standard_->scale.read(files);
}

Value VisionTower::forward(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const {
  const Tensor positions = g.device().from_host(grids.positions()).view({2, grids.rows()});
  Value x_PV = embed_patches(g, grids, bytes);
  for (const VisionLayer& layer : layers_) {
    const std::vector<Graph::Scope> weights = open_units(g, layer.parameters());
    x_PV = layer.forward(g, x_PV, rope_, positions);
  }
  return projector_.forward(g, pool(g, x_PV, grids));
}

Value VisionTower::embed_patches(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const {
  const Graph::Scope weights = g.scope(patch_projection_.group());
  const Tensor centred = pixels(g.device(), bytes, {.middle = 0.5f, .factor = 2}, patch_projection_.value().dtype());
  // The table of lines follows that of columns.
  const auto [columns, lines] = grids.rows_of_tables(1, config_.position_embedding_size);
  const Value place = g.add(g.rows_of(position_table_, g.device().from_host(columns)),
                            g.rows_of(position_table_, g.device().from_host(lines)));
  return g.add(g.linear(Graph::constant(centred), patch_projection_), place);
}

Value VisionTower::pool(Tape& g, const Value& x_PV, const ops::PatchGrids& grids) const {
  const auto factor = static_cast<float>(std::sqrt(static_cast<double>(config_.hidden_size)));
  const Value means_RV = g.pool_patches(x_PV, grids, config_.pooling_kernel_size, factor);
  const DType dtype = x_PV.data.dtype();
  if (!standard_) return g.convert(means_RV, dtype);
  const Shape width{config_.hidden_size};
  return g.standardize(means_RV, g.device().from_host(bias_V_, width), g.device().from_host(scale_V_, width), dtype);
}

}  // namespace mtp::model
