#include "mtp/hf/make_pair.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "mtp/core/error.h"
#include "mtp/core/random.h"
#include "mtp/hf/tensor_table.h"

namespace mtp::hf {

namespace fs = std::filesystem;

namespace {

/// A vector's elements are all alike. Attention has no 1/√d, so q_norm and k_norm have it between them: larger ones
/// would make attention look at one position only.
float constant_of(const TensorEntry& tensor) {
  const bool is_query_or_key = tensor.name.ends_with("q_norm.weight") || tensor.name.ends_with("k_norm.weight");
  return is_query_or_key ? std::pow(static_cast<float>(tensor.shape[0]), -0.25f) : 1.0f;
}

/// A matrix gives activations of the size of its inputs; a lookup, which its width scales, gives ones of size 1.
float deviation_of(const TensorEntry& tensor, const TextConfig& config) {
  const bool is_packed = tensor.name.ends_with("embed_tokens_per_layer.weight");
  const std::int64_t width = is_packed ? config.hidden_size_per_layer_input : tensor.shape[1];
  return 1.0f / std::sqrt(static_cast<float>(width));
}

/// A model's tensors are numbered from `first_stream` on: no two of a pair share random numbers.
class Weights {
 public:
  Weights(const TextConfig& config, std::uint64_t seed, std::size_t first_stream)
      : config_(config), seed_(seed), stream_(first_stream) {}

  void append_next(const TensorEntry& tensor, SafetensorsWriter& writer) {
    const Random random(seed_, Purpose::initialisation, stream_++);
    if (tensor.dtype == "I64")
      writer.append(std::as_bytes(std::span(permutation(random, tensor.shape[0]))));
    else if (tensor.shape.size() == 1)
      writer.append(std::as_bytes(std::span(std::vector(num_elements(tensor.shape), constant_of(tensor)))));
    else
      append_matrix(tensor, random, writer);
  }

 private:
  void append_matrix(const TensorEntry& tensor, const Random& random, SafetensorsWriter& writer) const {
    constexpr std::int64_t piece = std::int64_t{1} << 20;
    const std::int64_t elements = num_elements(tensor.shape);
    const float deviation = deviation_of(tensor, config_);
    for (std::int64_t begin = 0; begin < elements; begin += piece) {
      std::vector<float> values(std::min(piece, elements - begin));
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = deviation * static_cast<float>(random.normal(static_cast<std::uint64_t>(begin) + i));
      writer.append(std::as_bytes(std::span(values)));
    }
  }

  const TextConfig& config_;
  std::uint64_t seed_;
  std::size_t stream_;
};

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw Error("{}: cannot be made: {}", path.string(), error.message());
}

/// A directory's config.json, read back as a training would read it.
template <typename Config>
Config write_config(const fs::path& directory, const Json& json, Config (*read)(const fs::path&)) {
  make_directories(directory);
  write_json(directory / "config.json", json);
  const Json& text = json["text_config"];
  write_json(directory / "generation_config.json", {{"bos_token_id", text["bos_token_id"]},
                                                    {"eos_token_id", {text["eos_token_id"]}},
                                                    {"pad_token_id", text["pad_token_id"]}});
  return read(directory);
}

void write_weights(const fs::path& directory, const std::vector<TensorEntry>& tensors, Weights weights) {
  SafetensorsWriter writer(directory / "model.safetensors", tensors);
  for (const TensorEntry& tensor : tensors) weights.append_next(tensor, writer);
  writer.finish();
}

}  // namespace

void make_pair(const Preset& preset, std::uint64_t seed, const fs::path& out) {
  const fs::path target = out.has_filename() ? out : out.parent_path();  // "pair/" is "pair"
  if (fs::exists(target)) throw Error("{}: already exists; choose another --out or remove it", target.string());
  fs::path partial = target;
  partial += ".partial";
  fs::remove_all(partial);
  const auto base = write_config(partial / "base", preset.base, read_base_config);
  const auto drafter = write_config(partial / "drafter", preset.drafter, read_drafter_config);
  check_fit(base, drafter);
  const std::vector<TensorEntry> base_tensors = tensors_of(base);
  write_weights(partial / "base", base_tensors, Weights(base.text, seed, 0));
  write_weights(partial / "drafter", tensors_of(drafter), Weights(drafter.text, seed, base_tensors.size()));
  fs::rename(partial, target);
}

}  // namespace mtp::hf
