#include "mtp/model/patch_embedder.h"

namespace mtp::model {

namespace {

constexpr float layer_norm_eps = 1e-5f;  // PyTorch's default, whatever the configuration says

}  // namespace

PatchEmbedder::Norm PatchEmbedder::norm(const Tensors& tensors, const char* name, std::int64_t width) {
  return {tensors.vector(name, width), tensors.bias(name, width)};
}

PatchEmbedder::PatchEmbedder(const Tensors& all, const hf::PatchEmbedderConfig& config, std::int64_t hidden,
                             const Settings::Freeze& freeze)
    : config_(config) {
  const Tensors tensors =
      all.in_unit("base.vision.patch_embedder", !freeze.base && !freeze.vision).below("model.vision_embedder.");
  pixel_norm_ = norm(tensors, "patch_ln1", config.patch_values());
  dense_ = tensors.matrix("patch_dense", config.embed_dim, config.patch_values());
  dense_bias_ = tensors.bias("patch_dense", config.embed_dim);
  dense_norm_ = norm(tensors, "patch_ln2", config.embed_dim);
  position_table_ = tensors.positions("pos_embedding", {config.position_embedding_size, 2, config.embed_dim});
  position_norm_ = norm(tensors, "pos_norm", config.embed_dim);
  projector_ = Projector(
      all.in_unit("base.vision.projector", !freeze.base && !freeze.vision_projector).below("model.embed_vision."),
      hidden, config.embed_dim, config.rms_norm_eps);
}

Value PatchEmbedder::forward(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const {
  return projector_.forward(g, features(g, grids, bytes));
}

Value PatchEmbedder::features(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const {
  const auto layer_norm = [&](const Value& x, const Norm& norm) {
    return g.layer_norm(x, norm.weight, norm.bias, layer_norm_eps);
  };
  Device& device = g.device();
  const Graph::Scope weights = g.scope(dense_.group());
  const Tensor raw = pixels(device, bytes, {.middle = 0, .factor = 1}, dense_.value().dtype());
  // A position's row of columns is followed by its row of lines.
  const auto [columns, lines] = grids.rows_of_tables(2, 1);
  const Value place =
      g.add(g.rows_of(position_table_, device.from_host(columns)), g.rows_of(position_table_, device.from_host(lines)));
  Value x_PE = layer_norm(Graph::constant(raw), pixel_norm_);
  x_PE = layer_norm(g.add_bias(g.linear(x_PE, dense_), dense_bias_), dense_norm_);
  return layer_norm(g.add(x_PE, place), position_norm_);
}

}  // namespace mtp::model
