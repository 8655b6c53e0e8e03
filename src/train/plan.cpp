#include "mtp/train/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <numeric>

#include "mtp/train/train_state.h"

namespace mtp::train {

namespace {

/// The `count` samples that `size_of(i)` is largest for, in the order of the file.
template <typename SizeOf>
std::vector<std::int64_t> largest_samples(const data::DataFile& data, std::int64_t count, const SizeOf& size_of) {
  std::vector<std::int64_t> samples(static_cast<std::size_t>(data.samples()));
  std::iota(samples.begin(), samples.end(), 0);
  const auto end = samples.begin() + std::min(count, data.samples());
  std::ranges::partial_sort(samples, end, [&](std::int64_t a, std::int64_t b) { return size_of(a) > size_of(b); });
  samples.erase(end, samples.end());
  std::ranges::sort(samples);
  return samples;
}

std::int64_t soft_tokens_of(const data::MediaSets& media, std::int64_t sample) {
  std::int64_t tokens = 0;
  for (std::int64_t i = media.first(sample); i < media.first(sample + 1); ++i) tokens += media.soft_tokens(i);
  return tokens;
}

/// The micro-batches of a file that may need most.
std::vector<data::MicroBatch> largest_batches(const Settings& settings, const model::Pair& pair,
                                              const data::DataFile& data) {
  const std::int64_t count = settings.train.micro_batch, cut = settings.data.max_length;
  const data::BatchOptions options{.max_length = cut, .refused_ids = pair.base_config.special_ids()};
  const auto longest = largest_samples(data, count, [&](std::int64_t i) { return data.length(i, cut); });
  std::vector<data::MicroBatch> batches{make_micro_batch(data, longest, options)};
  const auto add_largest = [&](const data::MediaSets& media) {
    const auto largest = largest_samples(data, count, [&](std::int64_t i) { return soft_tokens_of(media, i); });
    batches.push_back(make_micro_batch(data, largest, options));
  };
  if (data.images()) add_largest(*data.images());
  if (data.audio()) add_largest(*data.audio());
  return batches;
}

std::string line(const std::string& what, std::int64_t bytes) {
  return fmt::format("{:<20} {:>16} {:>9.2f}", what, bytes, static_cast<double>(bytes) * 1e-9);
}

void append(const MemoryAccounts& accounts, std::vector<std::string>& lines) {
  for (std::size_t i = 0; i < memory_uses; ++i)
    if (accounts.in_use_by[i] > 0) lines.push_back(line(to_string(static_cast<MemoryUse>(i)), accounts.in_use_by[i]));
  if (accounts.gaps() > 0) lines.push_back(line("gaps", accounts.gaps()));
  lines.push_back(line("held", accounts.held));
}

}  // namespace

Plan plan(const Settings& settings, const model::Pair& pair, const PlannedBatches& batches, Device::Kind kind,
          const parallel::PretendedRanks::Job& job) {
  check_expert_parallel(settings, pair.base_config, job.ranks);
  Device device = Device::counting(kind);
  const parallel::PretendedRanks ranks(job, device);
  TrainState state(settings, pair, device, ranks);
  const auto validate = [&] {
    if (batches.validation) state.joint().validate(input_of(*batches.validation, state.joint(), ranks));
  };
  const std::vector<data::MicroBatch> mine(micro_batches_of_rank(settings, job.ranks), batches.training);
  const std::int64_t labels = std::ssize(mine) * job.ranks * std::max<std::int64_t>(1, mine[0].label_tokens());
  Plan plan;
  validate();
  for (const std::int64_t step : {0, 1}) {  // the second gathers ahead of time, in the order of the first
    const std::int64_t received = ranks.received();
    const double flops = device.flops();
    state.forward_backward(mine, labels);
    state.optimizer().update(step, settings.optimizer.lr, state.optimizer().gradient_norm());
    plan.received = ranks.received() - received;
    plan.flops = (device.flops() - flops) * job.ranks;
    validate();
  }
  plan.device = device.accounts();
  if (kind == Device::Kind::cuda) plan.host = device.host_accounts();
  return plan;
}

Plan largest_plan(const Settings& settings, const model::Pair& pair, const PlannedData& data, Device::Kind kind,
                  const parallel::PretendedRanks::Job& job) {
  std::vector<std::optional<data::MicroBatch>> validation{std::nullopt};
  if (data.validation) {
    validation.clear();
    for (data::MicroBatch& batch : largest_batches(settings, pair, *data.validation))
      validation.push_back(std::move(batch));
  }
  Plan largest;
  for (const data::MicroBatch& training : largest_batches(settings, pair, data.training))
    for (const std::optional<data::MicroBatch>& validated : validation) {
      const Plan one = plan(settings, pair, {training, validated}, kind, job);
      if (one.device.held > largest.device.held) largest = one;
    }
  return largest;
}

data::MicroBatch made_up_batch(const hf::BaseConfig& base, std::int64_t sequences, std::int64_t length) {
  constexpr std::int64_t apart = 7919;  // a prime: the tables' owners get about equally many
  std::vector<std::int64_t> ids, labels;
  for (std::int64_t t = 0; t < sequences * length; ++t) {
    ids.push_back(t * apart % base.text.vocab_size);
    labels.push_back((t + 1) * apart % base.text.vocab_size);
  }
  return {.sequences = ops::Sequences(std::vector<std::int64_t>(static_cast<std::size_t>(sequences), length)),
          .ids = std::move(ids),
          .labels = std::move(labels),
          .images = {},
          .clips = {}};
}

model::Parts parts_for(const data::DataFile& training, const std::optional<data::DataFile>& validation) {
  return {.vision = training.images() || (validation && validation->images()),
          .audio = training.audio() || (validation && validation->audio())};
}

std::vector<std::string> table(const Plan& plan) {
  std::vector<std::string> lines{fmt::format("{:<20} {:>16} {:>9}", "memory of a rank", "bytes", "GB")};
  append(plan.device, lines);
  if (plan.host.held > 0) {
    lines.push_back("page-locked memory of the host");
    append(plan.host, lines);
  }
  lines.push_back("a step");
  lines.push_back(line("a rank receives", plan.received));
  lines.push_back(fmt::format("{:<20} {:>16.0f} {:>9.3g}", "FLOPs of all ranks", plan.flops, plan.flops));
  return lines;
}

std::int64_t memory_of_rank(const Device& device, const parallel::Communicator& communicator) {
  if (device.kind() == Device::Kind::cuda) {
    const std::vector<std::string> gpus = communicator.all_gather(device.identity(), "the ranks' GPUs");
    return device.memory_size() / std::ranges::count(gpus, device.identity());
  }
  std::ifstream file("/proc/meminfo");
  std::int64_t available = 0;
  for (std::string name, unit; file >> name;) {
    std::int64_t kib = 0;
    file >> kib;
    if (name == "MemAvailable:" || name == "SwapFree:") available += kib << 10;
    std::getline(file, unit);
  }
  return available / communicator.ranks_on_this_node();
}

}  // namespace mtp::train
