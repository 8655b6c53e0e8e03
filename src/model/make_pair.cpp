#include "mtp/model/make_pair.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <thread>

#include "mtp/core/error.h"
#include "mtp/core/random.h"
#include "mtp/model/pair.h"
#include "mtp/tensor/thread_pool.h"

namespace mtp::model {

namespace fs = std::filesystem;

namespace {

template <typename T>
void append(const std::vector<T>& values, hf::SafetensorsWriter& writer) {
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
                   hf::SafetensorsWriter& writer) {
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
void write_weights(const fs::path& directory, const std::vector<TensorRecord>& tensors, std::uint64_t seed,
                   std::uint64_t first_stream) {
  const ThreadPool threads(std::max(1, static_cast<int>(std::thread::hardware_concurrency())));
  hf::SafetensorsWriter writer(directory / "model.safetensors", entries(tensors));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& [kind, value] = tensors[i].start;
    const std::int64_t elements = num_elements(tensors[i].shape);
    const Random random(seed, Purpose::initialisation, first_stream + i);
    if (kind == Start::Kind::permutation)
      append(permutation(random, elements), writer);
    else if (kind == Start::Kind::constant)
      append(std::vector<float>(elements, value), writer);
    else
      append_matrix(elements, value, random, threads, writer);
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

void make_pair(const hf::Preset& preset, std::uint64_t seed, const fs::path& out) {
  const fs::path target = out.has_filename() ? out : out.parent_path();  // "pair/" is "pair"
  if (fs::exists(target)) throw Error("{}: already exists; choose another --out or remove it", target.string());
  fs::path partial = target;
  partial += ".partial";
  fs::remove_all(partial);
  write_configs(partial / "base", preset.base, Json::object());
  // Without a number of drafts, Hugging Face cannot decode with a drafter.
  write_configs(partial / "drafter", preset.drafter,
                {{"num_assistant_tokens", 4}, {"num_assistant_tokens_schedule", "constant"}});
  const hf::BaseConfig base_config = hf::read_base_config(partial / "base");
  const hf::DrafterConfig drafter_config = hf::read_drafter_config(partial / "drafter");
  hf::check_fit(base_config, drafter_config);
  const std::vector<TensorRecord> base = tensors_of(base_config);
  const auto used = static_cast<std::uint64_t>(std::ranges::count(base, true, &TensorRecord::is_used));
  write_weights(partial / "base", base, seed, 0);
  write_weights(partial / "drafter", tensors_of(drafter_config), seed, used);
  fs::rename(partial, target);
}

}  // namespace mtp::model
