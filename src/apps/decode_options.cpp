#include "decode_options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "mtp/core/error.h"
#include "mtp/tensor/cuda_devices.h"

namespace mtp::apps {

namespace po = boost::program_options;

void check_choice(const char* option, const std::string& value, const std::vector<std::string>& choices) {
  if (std::find(choices.begin(), choices.end(), value) == choices.end())
    throw UsageError("option --{}: {} is none of {}", option, value, fmt::join(choices, ", "));
}

void check_range(const char* option, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most)
    throw UsageError("option --{}: {} is out of range, it must be {} to {}", option, value, least, most);
}

void check_output(const char* option, const std::filesystem::path& path) {
  if (path.empty()) return;
  const std::filesystem::path folder = std::filesystem::absolute(path).parent_path();
  if (std::filesystem::is_directory(path) || !std::filesystem::is_directory(folder))
    throw UsageError("option --{}: {} cannot be written: name a file in a folder that exists", option, path.string());
}

void DecodeOptions::add_pair_to(po::options_description& options) {
  options.add_options()("base", po::value(&base)->required(), "Hugging Face directory of the base")(
      "drafter", po::value(&drafter)->required(), "Hugging Face directory of its drafter");
}

void DecodeOptions::add_to(po::options_description& options) {
  const auto number = [](std::int64_t* value) { return po::value(value)->default_value(*value); };
  options.add_options()("batch", number(&batch), "prompts decoded at a time, 1 to 1024")(
      "max-new-tokens", number(&max_new_tokens), "tokens after each prompt")(
      "temperature", po::value(&sampling.temperature)->default_value(0, "0"),
      "0: greedy, the likeliest token; else sampled, by logits divided by this")(
      "top-k", number(&sampling.top_k), "sampled among so many of the likeliest tokens; 0: among all")(
      "top-p", po::value(&sampling.top_p)->default_value(1, "1"),
      "sampled among the fewest of the likeliest tokens that have this probability together")(
      "seed", po::value(&sampling.seed)->default_value(0), "of what is sampled")(
      "position-offset", number(&position_offset),
      "distance of the drafter's query from its state: 1 (Hugging Face) or 0 (vLLM, SGLang)")(
      "device", po::value(&device)->default_value(device), "auto (a GPU where there is one), cpu or cuda")(
      "compute-dtype", po::value(&compute_dtype),
      "type of weights, keys and values: fp32 or bf16; by default fp32 on a CPU and bf16 on a GPU")(
      "threads", number(&threads), "0: OMP_NUM_THREADS, else all cores, which the ranks of a machine share");
}

void DecodeOptions::check() const {
  check_range("batch", batch, 1, 1024);
  check_range("max-new-tokens", max_new_tokens, 1, 1 << 30);
  if (const double t = sampling.temperature; !(t >= 0 && t <= 100))
    throw UsageError("option --temperature: {} is out of range, it must be 0 to 100", t);
  check_range("top-k", sampling.top_k, 0, std::numeric_limits<std::int32_t>::max());
  if (const double p = sampling.top_p; !(p > 0 && p <= 1))
    throw UsageError("option --top-p: {} is out of range, it must be more than 0 and at most 1", p);
  check_range("position-offset", position_offset, 0, 1);
  check_range("threads", threads, 0, 1024);
  check_choice("device", device, {"auto", "cpu", "cuda"});
  if (device == "cuda")
    if (const CudaDevices found = find_cuda_devices(); found.count == 0)
      throw UsageError("option --device: there is no CUDA device: {}; use cpu", found.remark);
  if (!compute_dtype.empty()) check_choice("compute-dtype", compute_dtype, {"fp32", "bf16"});
}

Settings DecodeOptions::settings() const {
  Settings settings;
  settings.model.base = base;
  settings.model.drafter = drafter;
  settings.run.threads = threads;
  settings.run.device = device == "cuda"  ? DeviceChoice::cuda
                        : device == "cpu" ? DeviceChoice::cpu
                                          : DeviceChoice::automatic;
  return settings;
}

DType DecodeOptions::dtype_on(const Device& on) const {
  if (compute_dtype.empty()) return on.kind() == Device::Kind::cpu ? DType::f32 : DType::bf16;
  return compute_dtype == "bf16" ? DType::bf16 : DType::f32;
}

}  // namespace mtp::apps
