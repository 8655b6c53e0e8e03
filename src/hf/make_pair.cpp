#include "mtp/hf/make_pair.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <thread>

#include "mtp/core/error.h"
#include "mtp/core/random.h"
#include "mtp/hf/tensor_table.h"
#include "mtp/tensor/thread_pool.h"

namespace mtp::hf {

namespace fs = std::filesystem;

namespace {

/// A vector's elements are all alike. Attention has no 1/√d, so q_norm and k_norm have it between them: larger ones
/// would make attention look at one position only.
float constant_of(const TensorEntry& tensor) {
  const bool is_query_or_key = tensor.name.ends_with("q_norm.weight") || tensor.name.ends_with("k_norm.weight");
  return is_query_or_key ? 1.0f / std::sqrt(std::sqrt(static_cast<float>(tensor.shape[0]))) : 1.0f;
}

/// A matrix gives activations of the size of its inputs; a lookup, which its width scales, gives ones of size 1.
float deviation_of(const TensorEntry& tensor, const TextConfig& config) {
  const bool is_packed = tensor.name.ends_with("embed_tokens_per_layer.weight");
  const std::int64_t width = is_packed ? config.hidden_size_per_layer_input : tensor.shape[1];
  return 1.0f / std::sqrt(static_cast<float>(width));
}

template <typename T>
void append(const std::vector<T>& values, SafetensorsWriter& writer) {
  writer.append(std::as_bytes(std::span(values)));
}

/// deviation · the random numbers first, first + 1, … in fp32.
void draw(const Random& random, std::uint64_t first, float deviation, std::span<float> values) {
  std::array<double, 1024> numbers;
  for (std::size_t begin = 0; begin < values.size(); begin += numbers.size()) {
    const std::span some = std::span(numbers).first(std::min(numbers.size(), values.size() - begin));
    random.normals(first + begin, some);
    std::ranges::transform(some, values.begin() + begin,
                           [&](double number) { return deviation * static_cast<float>(number); });
  }
}

void append_matrix(std::int64_t elements, float deviation, const Random& random, const ThreadPool& threads,
                   SafetensorsWriter& writer) {
  constexpr std::int64_t piece = std::int64_t{1} << 22, part = std::int64_t{1} << 16;  // in memory, and of a task
  for (std::int64_t begin = 0; begin < elements; begin += piece) {
    std::vector<float> values(std::min(piece, elements - begin));
    threads.run((std::ssize(values) + part - 1) / part, [&](std::int64_t i) {
      const std::span<float> all(values);
      const std::int64_t from = i * part;
      draw(random, begin + from, deviation, all.subspan(from, std::min(part, std::ssize(values) - from)));
    });
    append(values, writer);
  }
}

/// Each tensor draws from a stream of its own, numbered from `first_stream` on.
void write_weights(const fs::path& directory, const std::vector<TensorEntry>& tensors, const TextConfig& config,
                   std::uint64_t seed, std::uint64_t first_stream) {
  const ThreadPool threads(std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  SafetensorsWriter writer(directory / "model.safetensors", tensors);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorEntry& tensor = tensors[i];
    const Random random(seed, Purpose::initialisation, first_stream + i);
    if (tensor.dtype == "I64")
      append(permutation(random, tensor.shape[0]), writer);
    else if (tensor.shape.size() == 1)
      append(std::vector<float>(tensor.shape[0], constant_of(tensor)), writer);
    else
      append_matrix(num_elements(tensor.shape), deviation_of(tensor, config), random, threads, writer);
  }
  writer.finish();
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw Error("{}: cannot be made: {}", path.string(), error.message());
}

/// `generation`: keys of generation_config.json beside the special tokens.
void write_configs(const fs::path& directory, const Json& config, const Json& generation) {
  make_directories(directory);
  write_json(directory / "config.json", config);
  const Json& text = config["text_config"];
  Json special = {{"bos_token_id", text["bos_token_id"]},
                  {"eos_token_id", {text["eos_token_id"]}},
                  {"pad_token_id", text["pad_token_id"]}};
  special.update(generation);
  write_json(directory / "generation_config.json", special);
}

}  // namespace

void make_pair(const Preset& preset, std::uint64_t seed, const fs::path& out) {
  const fs::path target = out.has_filename() ? out : out.parent_path();  // "pair/" is "pair"
  if (fs::exists(target)) throw Error("{}: already exists; choose another --out or remove it", target.string());
  fs::path partial = target;
  partial += ".partial";
  fs::remove_all(partial);
  write_configs(partial / "base", preset.base, Json::object());
  // Without a number of drafts, Hugging Face cannot decode with a drafter.
  write_configs(partial / "drafter", preset.drafter,
                {{"num_assistant_tokens", 4}, {"num_assistant_tokens_schedule", "constant"}});
  const BaseConfig base = read_base_config(partial / "base");
  const DrafterConfig drafter = read_drafter_config(partial / "drafter");
  check_fit(base, drafter);
  const std::vector<TensorEntry> base_tensors = tensors_of(base);
  const auto is_used = [&](const TensorEntry& tensor) { return !is_unused_kv(base.text, tensor.name); };
  const auto used = static_cast<std::uint64_t>(std::ranges::count_if(base_tensors, is_used));
  write_weights(partial / "base", base_tensors, base.text, seed, 0);
  write_weights(partial / "drafter", tensors_of(drafter), drafter.text, seed, used);
  fs::rename(partial, target);
}

}  // namespace mtp::hf
