#include "plan.h"

#include <filesystem>
#include <iostream>

#include "mtp/core/json.h"
#include "mtp/hf/config.h"
#include "mtp/tensor/cuda_devices.h"
#include "mtp/train/plan.h"
#include "mtp/train/train_state.h"

namespace mtp::apps {

namespace {

namespace fs = std::filesystem;

/// As safetensors spells the type that a config.json says its model has.
std::string element_type(const fs::path& directory) {
  const Json config = read_json(directory / "config.json");
  for (const char* key : {"dtype", "torch_dtype"})
    if (const auto type = try_get<std::string>(config.value(key, Json()))) {
      if (*type == "bfloat16") return "BF16";
      if (*type == "float16") return "F16";
    }
  return "F32";
}

bool has_weights(const fs::path& directory) {
  return fs::exists(directory / "model.safetensors") || fs::exists(directory / "model.safetensors.index.json");
}

/// The models' tensors, which need not be there.
model::Pair open_pair(const Settings& settings, model::Parts parts) {
  const auto open_or_describe = [&](const fs::path& directory) {
    if (has_weights(directory)) return hf::TensorFiles::open(directory);
    std::vector<hf::TensorEntry> tensors =
        model::entries(directory == settings.model.base ? model::tensors_of(hf::read_base_config(directory))
                                                        : model::tensors_of(hf::read_drafter_config(directory)));
    for (hf::TensorEntry& tensor : tensors)
      if (tensor.dtype == "F32") tensor.dtype = element_type(directory);
    return hf::TensorFiles::without_files(directory.string(), tensors);
  };
  return model::Pair(settings, parts, settings.model.base, settings.model.drafter, open_or_describe);
}

Device::Kind kind_of(const Settings& settings) {
  const bool has_gpu = settings.run.device == DeviceChoice::automatic && find_cuda_devices().count > 0;
  return settings.run.device == DeviceChoice::cuda || has_gpu ? Device::Kind::cuda : Device::Kind::cpu;
}

train::Plan plan_of(const CommandLine& command, Device::Kind kind) {
  const Settings& settings = command.settings;
  const parallel::PretendedRanks::Job job{.ranks = static_cast<int>(command.plan.ranks),
                                          .ranks_per_node = static_cast<int>(command.plan.ranks_per_node),
                                          .overlaps = settings.dist.transport != TransportChoice::staged};
  if (command.plan.length > 0) {
    const model::Pair pair = open_pair(settings, {});
    const data::MicroBatch batch =
        train::made_up_batch(pair.base_config, settings.train.micro_batch, command.plan.length);
    return train::plan(settings, pair, {batch, std::nullopt}, kind, job);
  }
  const data::DataFile training(settings.data.train);
  std::optional<data::DataFile> validation;
  if (settings.validation.every_steps > 0) validation.emplace(settings.data.validation);
  const model::Pair pair = open_pair(settings, train::parts_for(training, validation));
  return train::largest_plan(settings, pair, {training, validation}, kind, job);
}

}  // namespace

int print_plan(const CommandLine& command) {
  const Device::Kind kind = kind_of(command.settings);
  const bool is_bf16 = train::compute_type(command.settings, kind) == ComputeType::bf16;
  const train::Plan plan = plan_of(command, kind);
  std::cout << fmt::format("{} ranks on {}, computing in {}\n", command.plan.ranks,
                           kind == Device::Kind::cuda ? "GPUs" : "CPUs", is_bf16 ? "bf16" : "fp32");
  for (const std::string& line : train::table(plan)) std::cout << line << "\n";
  return 0;
}

}  // namespace mtp::apps
