#include "mtp/model/make_pair.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <thread>

#include "mtp/core/error.h"
#include "mtp/core/random.h"
#include "mtp/hf/model_files.h"
#include "mtp/model/pair.h"
#include "mtp/tensor/thread_pool.h"

namespace mtp::model {

namespace fs = std::filesystem;

namespace {

void append(const std::vector<std::int64_t>& values, hf::SafetensorsWriter& writer) {
  writer.append(std::as_bytes(std::span(values)));
}

/// As the bytes of the element type that the record has.
void append(std::span<const float> values, const TensorRecord& tensor, hf::SafetensorsWriter& writer) {
  writer.append(hf::convert(values, tensor.dtype));
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

void append_matrix(const TensorRecord& tensor, const Random& random, const ThreadPool& threads,
                   hf::SafetensorsWriter& writer) {
  const std::int64_t elements = num_elements(tensor.shape);
  constexpr std::int64_t piece = std::int64_t{1} << 22, part = std::int64_t{1} << 16;  // in memory, and of a task
  for (std::int64_t begin = 0; begin < elements; begin += piece) {
    std::vector<float> values(std::min(piece, elements - begin));
    threads.run((std::ssize(values) + part - 1) / part, [&](std::int64_t i) {
      const std::span<float> all(values);
      const std::int64_t from = i * part;
      draw(random, begin + from, tensor.start.value, all.subspan(from, std::min(part, std::ssize(values) - from)));
    });
    append(values, tensor, writer);
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
      append(std::vector<float>(elements, value), tensors[i], writer);
    else
      append_matrix(tensors[i], random, threads, writer);
  }
  writer.finish();
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw Error("{}: cannot be made: {}", path.string(), error.message());
}

/// What Hugging Face's image processor is to make of images for a model that sees.
void write_image_processor(const fs::path& directory, const Json& config) {
  const Json& vision = config["vision_config"];
  write_json(directory / "preprocessor_config.json", {{"image_processor_type", "Gemma4ImageProcessor"},
                                                      {"patch_size", vision["patch_size"]},
                                                      {"pooling_kernel_size", vision["pooling_kernel_size"]},
                                                      {"max_soft_tokens", config["vision_soft_tokens_per_image"]}});
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
  if (config.contains("vision_config")) write_image_processor(directory, config);
}

Json with_dtype(Json config, ComputeType dtype) {
  hf::set_dtype(config, dtype == ComputeType::bf16 ? "bfloat16" : "float32");
  return config;
}

std::vector<TensorRecord> with_dtype(std::vector<TensorRecord> tensors, ComputeType dtype) {
  for (TensorRecord& tensor : tensors)
    if (tensor.dtype == "F32" && dtype == ComputeType::bf16) tensor.dtype = "BF16";
  return tensors;
}

void write_configs(const hf::Preset& preset, const fs::path& out, ComputeType dtype) {
  write_configs(out / "base", with_dtype(preset.base, dtype), Json::object());
  // Without a number of drafts, Hugging Face cannot decode with a drafter.
  write_configs(out / "drafter", with_dtype(preset.drafter, dtype),
                {{"num_assistant_tokens", 4}, {"num_assistant_tokens_schedule", "constant"}});
}

void write_weights(const fs::path& out, std::uint64_t seed, ComputeType dtype) {
  const hf::BaseConfig base_config = hf::read_base_config(out / "base");
  const hf::DrafterConfig drafter_config = hf::read_drafter_config(out / "drafter");
  hf::check_fit(base_config, drafter_config);
  const std::vector<TensorRecord> base = with_dtype(tensors_of(base_config), dtype);
  const auto used = static_cast<std::uint64_t>(std::ranges::count(base, true, &TensorRecord::is_used));
  write_weights(out / "base", base, seed, 0);
  write_weights(out / "drafter", with_dtype(tensors_of(drafter_config), dtype), seed, used);
}

}  // namespace

void make_pair(const hf::Preset& preset, std::optional<std::uint64_t> seed, const fs::path& out, ComputeType dtype) {
  const fs::path target = out.has_filename() ? out : out.parent_path();  // "pair/" is "pair"
  if (fs::exists(target)) throw Error("{}: already exists; choose another --out or remove it", target.string());
  fs::path partial = target;
  partial += ".partial";
  std::error_code error;
  fs::remove_all(partial, error);  // what cannot be removed cannot be written either
  try {
    write_configs(preset, partial, dtype);
    if (seed) write_weights(partial, *seed, dtype);
  } catch (...) {
    fs::remove_all(partial, error);
    throw;
  }
  fs::rename(partial, target, error);
  if (error) throw Error("{}: cannot be made: {}", target.string(), error.message());
}

}  // namespace mtp::model
