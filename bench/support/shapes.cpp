#include "support/shapes.h"

#include <algorithm>

#include "mtp/core/error.h"

namespace mtp::bench {

namespace {

// What 17m changes in E4B's configurations.
constexpr const char* base_17m = R"({
  "vocab_size": 8192, "hidden_size": 256, "intermediate_size": 1024,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "global_head_dim": 128,
  "sliding_window": 128, "max_position_embeddings": 1024, "num_kv_shared_layers": 5,
  "hidden_size_per_layer_input": 32, "vocab_size_per_layer_input": 8192
})";
constexpr const char* drafter_17m = R"({
  "vocab_size": 8192, "hidden_size": 128, "intermediate_size": 512,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "global_head_dim": 128,
  "sliding_window": 128, "max_position_embeddings": 1024
})";

const hf::Preset& find_preset(const std::string& name) {
  const auto& all = hf::presets();
  const auto found = std::ranges::find(all, name, &hf::Preset::name);
  if (found == all.end())
    throw UsageError("option --preset: there is no {}; mtp-make-pair --help lists the presets, 17m is another", name);
  return *found;
}

std::int64_t layers_of_group(const Json& text) {
  const Json& types = text["layer_types"];
  return std::ranges::find(types, Json("full_attention")) - types.begin() + 1;
}

/// Keeps the first layers. Where some share keys and values, the last group still does.
void keep_groups(Json& text, std::int64_t groups) {
  const std::int64_t group = layers_of_group(text), layers = groups * group;
  Json& types = text["layer_types"];
  if (layers >= static_cast<std::int64_t>(types.size())) return;
  types.erase(types.begin() + layers, types.end());
  text["num_hidden_layers"] = layers;
  if (!text.contains("num_kv_shared_layers")) return;
  const std::int64_t sharing = text["num_kv_shared_layers"];
  text["num_kv_shared_layers"] = groups > 1 ? std::min(sharing, group) : 0;
}

hf::Preset shape_17m() {
  hf::Preset shape = find_preset("e4b");
  shape.name = "17m";
  Json& base = shape.base["text_config"];
  keep_groups(base, 2);
  base.update(Json::parse(base_17m));
  shape.drafter["text_config"].update(Json::parse(drafter_17m));
  shape.drafter.update({{"backbone_hidden_size", 256}, {"num_centroids", 64}, {"centroid_intermediate_top_k", 8}});
  return shape;
}

void keep_vocabulary(hf::Preset& shape, std::int64_t vocabulary) {
  Json &base = shape.base["text_config"], &drafter = shape.drafter["text_config"];
  const std::int64_t whole = base["vocab_size"];
  if (vocabulary > whole) throw UsageError("option --vocabulary: {} is above the preset's {}", vocabulary, whole);
  base["vocab_size"] = drafter["vocab_size"] = vocabulary;
  if (base["hidden_size_per_layer_input"] > 0) base["vocab_size_per_layer_input"] = vocabulary;
  if (!shape.drafter.contains("num_centroids")) return;
  const std::int64_t centroids = shape.drafter["num_centroids"];
  if (vocabulary % (whole / centroids) != 0)
    throw UsageError("option --vocabulary: {} is no multiple of the {} tokens of a centroid", vocabulary,
                     whole / centroids);
  shape.drafter["num_centroids"] = vocabulary / (whole / centroids);
}

}  // namespace

hf::Preset find_shape(const std::string& name, const Cut& cut) {
  if (cut.layer_groups < 0) throw UsageError("option --layer-groups: {} is below 0", cut.layer_groups);
  if (cut.vocabulary < 0) throw UsageError("option --vocabulary: {} is below 0", cut.vocabulary);
  hf::Preset shape = name == "17m" ? shape_17m() : find_preset(name);
  if (cut.layer_groups > 0) keep_groups(shape.base["text_config"], cut.layer_groups);
  if (cut.vocabulary > 0) keep_vocabulary(shape, cut.vocabulary);
  return shape;
}

}  // namespace mtp::bench
