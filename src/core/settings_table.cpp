#include "settings_table.h"

#include <fmt/ranges.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <regex>
#include <type_traits>
#include <utility>

#include "mtp/core/error.h"

namespace mtp {
namespace {

template <typename T>
struct Range {
  std::string text;
  std::function<bool(T)> holds;
};

template <typename T>
Range<T> at_least(T least) {
  return {fmt::format("at least {}", least), [=](T value) { return value >= least; }};
}

template <typename T>
Range<T> above(T bound) {
  return {fmt::format("above {}", bound), [=](T value) { return value > bound; }};
}

template <typename T>
constexpr const char* kind_of_number = std::is_floating_point_v<T> ? "a number"
                                       : std::is_signed_v<T>       ? "an integer"
                                                                   : "an integer without a sign";

// Strict: the whole text is one finite number within the range, without a sign +, blanks or a unit.
template <typename T>
T parse_number(const std::string& name, const std::string& text, const Range<T>& range) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  const bool is_number = stop == end && error != std::errc::invalid_argument;
  if (!is_number || (std::is_floating_point_v<T> && !std::isfinite(value)))
    throw UsageError("setting {}: '{}' is not {}", name, text, kind_of_number<T>);
  if (error == std::errc::result_out_of_range || !range.holds(value))
    throw UsageError("setting {}: {} is out of range, it must be {}", name, text, range.text);
  return value;
}

template <typename T>
std::string number_type(const Range<T>& range) {
  return fmt::format("{}, {}", std::is_integral_v<T> ? "integer" : "number", range.text);
}

template <typename T>
SettingEntry number(std::string name, T& field, Range<T> range, std::string meaning) {
  return {.name = name,
          .type = number_type(range),
          .meaning = std::move(meaning),
          .unset = "",
          .set = [=, &field](const std::string& text) { field = parse_number(name, text, range); },
          .text = [&field] { return fmt::format("{}", field); }};
}

template <typename T>
SettingEntry number(std::string name, std::optional<T>& field, Range<T> range, std::string unset, std::string meaning) {
  return {.name = name,
          .type = number_type(range),
          .meaning = std::move(meaning),
          .unset = std::move(unset),
          .set = [=, &field](const std::string& text) { field = parse_number(name, text, range); },
          .text = [&field] { return field ? std::optional(fmt::format("{}", *field)) : std::nullopt; }};
}

template <typename T>
using Choices = std::vector<std::pair<std::string, T>>;

template <typename T>
std::string names_of(const Choices<T>& choices) {
  std::string names = choices[0].first;
  for (std::size_t i = 1; i < choices.size(); ++i) names += (i + 1 < choices.size() ? ", " : " or ") + choices[i].first;
  return names;
}

template <typename T>
T parse_choice(const std::string& name, const std::string& text, const Choices<T>& choices) {
  for (const auto& [word, value] : choices)
    if (word == text) return value;
  throw UsageError("setting {}: '{}' is not {}", name, text, names_of(choices));
}

template <typename T>
std::optional<std::string> word_of(const std::optional<T>& chosen, const Choices<T>& choices) {
  for (const auto& [word, value] : choices)
    if (value == chosen) return word;
  return std::nullopt;
}

template <typename T>
SettingEntry choice(std::string name, T& field, Choices<T> choices, std::string meaning) {
  return {.name = name,
          .type = names_of(choices),
          .meaning = std::move(meaning),
          .unset = "",
          .set = [=, &field](const std::string& text) { field = parse_choice(name, text, choices); },
          .text = [=, &field] { return word_of(std::optional(field), choices); }};
}

template <typename T>
SettingEntry choice(std::string name, std::optional<T>& field, Choices<T> choices, std::string unset,
                    std::string meaning) {
  return {.name = name,
          .type = names_of(choices),
          .meaning = std::move(meaning),
          .unset = std::move(unset),
          .set = [=, &field](const std::string& text) { field = parse_choice(name, text, choices); },
          .text = [=, &field] { return word_of(field, choices); }};
}

/// Names, with commas between them.
SettingEntry names(std::string name, std::vector<std::string>& field, std::string meaning) {
  const auto set = [=, &field](const std::string& text) {
    static const std::regex list("[A-Za-z_][A-Za-z0-9_]*(,[A-Za-z_][A-Za-z0-9_]*)*"), comma(",");
    if (!std::regex_match(text, list))
      throw UsageError("setting {}: '{}' is not a list of names with commas between them", name, text);
    field.assign(std::sregex_token_iterator(text.begin(), text.end(), comma, -1), std::sregex_token_iterator());
  };
  return {.name = name,
          .type = "names, commas between them",
          .meaning = std::move(meaning),
          .unset = "",
          .set = set,
          .text = [&field] { return std::optional(fmt::format("{}", fmt::join(field, ","))); }};
}

SettingEntry flag(std::string name, bool& field, std::string meaning) {
  return choice(std::move(name), field, {{"true", true}, {"false", false}}, std::move(meaning));
}

std::string variable(const std::string& name, const std::string& variable) {
  const char* value = std::getenv(variable.c_str());
  if (value == nullptr || *value == '\0')
    throw UsageError("setting {}: the variable {} is not set; set it, or write the path out", name, variable);
  return value;
}

/// A shell expands these on a command line; in a settings file there is none.
std::string expanded(const std::string& name, const std::string& path) {
  static const std::regex reference(R"(\$(?:(\w+)|\{(\w+)\}))");
  std::string result = path == "~" || path.starts_with("~/") ? variable(name, "HOME") : "";
  auto position = path.begin() + (result.empty() ? 0 : 1);
  for (std::sregex_iterator found(position, path.end(), reference), end; found != end; ++found) {
    result.append(position, (*found)[0].first);
    result += variable(name, (*found)[1].matched ? (*found)[1] : (*found)[2]);
    position = (*found)[0].second;
  }
  return result.append(position, path.end());
}

SettingEntry path(std::string name, std::filesystem::path& field, std::string unset, std::string meaning) {
  const auto set = [=, &field](const std::string& text) {
    // A settings file cuts at # and at both ends' blanks: such a path could not be written and read back.
    if (text.find_first_of("#\n") != std::string::npos || text.starts_with(' ') || text.ends_with(' '))
      throw UsageError("setting {}: a path cannot have a #, a line break or a blank at its ends: '{}'", name, text);
    field = expanded(name, text);
  };
  const auto text = [&field] { return field.empty() ? std::nullopt : std::optional(field.string()); };
  return {.name = name,
          .type = "path, ~ and $NAME too",
          .meaning = std::move(meaning),
          .unset = std::move(unset),
          .set = set,
          .text = text};
}

}  // namespace

std::vector<SettingEntry> settings_table(Settings& s) {
  const Range<std::int64_t> count = at_least<std::int64_t>(1), count_or_none = at_least<std::int64_t>(0);
  const Range<std::int64_t> cut{"0 or at least 2", [](std::int64_t n) { return n == 0 || n >= 2; }};
  const Range<std::int64_t> offset{"0 or 1", [](std::int64_t n) { return n == 0 || n == 1; }};
  const Range<std::uint64_t> seed{"below 2^64", [](std::uint64_t) { return true; }};
  const Range<double> fraction{"at least 0 and below 1", [](double value) { return value >= 0 && value < 1; }};
  const Range<double> nothing{"0", [](double value) { return value == 0; }};
  const Range<double> not_negative = at_least(0.0), positive = above(0.0);
  return {
      path("model.base", s.model.base, "required", "Hugging Face directory of the base model"),
      path("model.drafter", s.model.drafter, "required", "Hugging Face directory of its drafter (assistant)"),
      path("model.base_adapter", s.model.base_adapter, "none",
           "PEFT directory of an adapter of the base, with the shape that lora says, to go on training from"),

      path("data.train", s.data.train, "required", "data file to train on"),
      path("data.validation", s.data.validation, "none", "data file to validate on"),
      number("data.max_length", s.data.max_length, cut, "tokens a sample is cut to; 0: uncut"),
      flag("data.shuffle", s.data.shuffle, "draw a new order of the samples every epoch"),
      number("data.seed", s.data.seed, seed, "seed of the order of the samples"),
      number("data.prefetch", s.data.prefetch, count, "micro-batches read ahead"),

      number("drafter.rounds", s.drafter.rounds, count, "drafter rounds trained, tokens drafted from one state"),
      number("drafter.loss_weight", s.drafter.loss_weight, not_negative, "weight of each round's loss"),
      number("drafter.round_weights", s.drafter.round_weights, positive,
             "β: the loss of round k counts β^k times; below 1, the first drafts count most"),
      flag("drafter.detach", s.drafter.detach, "no gradient from the rounds into the base"),
      choice("drafter.alignment", s.drafter.alignment, {{"serving", Alignment::serving}, {"pr2240", Alignment::pr2240}},
             "what a round sees: as when serving, or NeMo Automodel's recipe"),
      number("drafter.position_offset", s.drafter.position_offset, offset,
             "serving: distance of the drafter's query from its state: 1 (Hugging Face) or 0 (vLLM, SGLang)"),
      choice("drafter.head", s.drafter.head, {{"dense", Head::dense}, {"masked", Head::masked}},
             "logits trained on: of the whole vocabulary, or of the top centroids"),
      choice("drafter.target", s.drafter.target, {{"data", Target::data}, {"base", Target::base}},
             "what rounds learn: the labels, or the base's own distribution"),
      choice("drafter.loss", s.drafter.loss,
             {{"cross_entropy", RoundLoss::cross_entropy},
              {"total_variation", RoundLoss::total_variation},
              {"mixed", RoundLoss::mixed}},
             "with target = base: cross-entropy, one minus the probability that a draft is accepted, or both"),
      flag("drafter.share_embedding_with_base", s.drafter.share_embedding_with_base,
           "copy the base's token table into the drafter at the start"),

      flag("freeze.base", s.freeze.base, "train the drafter only"),
      flag("freeze.embeddings", s.freeze.embeddings,
           "do not train the base's token table (its output projection too) and its per-layer table"),
      flag("freeze.vision", s.freeze.vision, "do not train the vision tower, or a unified base's patch embedding"),
      flag("freeze.vision_projector", s.freeze.vision_projector,
           "do not train the projection of the vision tower's features"),
      flag("freeze.audio", s.freeze.audio, "do not train the audio tower"),
      flag("freeze.audio_projector", s.freeze.audio_projector,
           "do not train the projection of the audio tower's features, or of a unified base's frames"),

      number("lora.rank", s.lora.rank, count_or_none,
             "rank of low-rank adapters, which are trained in place of the base; 0: none"),
      number("lora.alpha", s.lora.alpha, positive, "lora.rank", "an adapter counts alpha / rank times"),
      names("lora.targets", s.lora.targets, "linear layers that have adapters"),
      choice("lora.on", s.lora.on, {{"base", Adapted::base}, {"both", Adapted::both}},
             "what has adapters: the base, whose drafter is trained whole, or both models"),
      number("lora.dropout", s.lora.dropout, nothing, "there is no dropout: it would not give the same bits again"),

      number("train.max_steps", s.train.max_steps, count_or_none, "optimizer steps; 0: no limit"),
      number("train.max_epochs", s.train.max_epochs, count_or_none, "passes over the data; 0: no limit"),
      number("train.global_batch", s.train.global_batch, count, "sequences a step, over all ranks"),
      number("train.micro_batch", s.train.micro_batch, count, "sequences a forward and backward"),
      choice("train.compute_dtype", s.train.compute_dtype, {{"fp32", ComputeType::fp32}, {"bf16", ComputeType::bf16}},
             "bf16 on GPUs, else fp32", "type of forward and backward; weights and sums of gradients are fp32"),
      flag("train.recompute", s.train.recompute, "recompute activations in the backward, for less memory"),

      number("optimizer.lr", s.optimizer.lr, not_negative, "peak learning rate"),
      number("optimizer.beta1", s.optimizer.beta1, fraction, "AdamW: decay of the first moment"),
      number("optimizer.beta2", s.optimizer.beta2, fraction, "AdamW: decay of the second moment"),
      number("optimizer.eps", s.optimizer.eps, positive, "AdamW: added to the root of the second moment"),
      number("optimizer.weight_decay", s.optimizer.weight_decay, not_negative, "AdamW: decay of every parameter"),
      number("optimizer.max_grad_norm", s.optimizer.max_grad_norm, not_negative,
             "norm that gradients are clipped to; 0: off"),
      choice("optimizer.moments", s.optimizer.moments, {{"fp32", Moments::fp32}, {"bf16", Moments::bf16}},
             "type of AdamW's moments; bf16 rounds them at random (run.seed), to take half the memory"),
      choice("optimizer.moments_on", s.optimizer.moments_on,
             {{"device", MomentsPlace::device}, {"host", MomentsPlace::host}},
             "memory that AdamW's moments lie in; host: they pass through the GPU in every step"),

      choice(
          "schedule.style", s.schedule.style,
          {{"constant", ScheduleStyle::constant}, {"linear", ScheduleStyle::linear}, {"cosine", ScheduleStyle::cosine}},
          "learning rate after the warm-up"),
      number("schedule.warmup_steps", s.schedule.warmup_steps, count_or_none, "a tenth of the run",
             "steps from init_lr to lr"),
      number("schedule.decay_steps", s.schedule.decay_steps, count, "the run's steps",
             "step at which min_lr is reached"),
      number("schedule.init_lr", s.schedule.init_lr, not_negative, "0.1 lr", "learning rate of the first step"),
      number("schedule.min_lr", s.schedule.min_lr, not_negative, "0.01 lr", "learning rate after the decay"),

      number("checkpoint.every_steps", s.checkpoint.every_steps, count_or_none,
             "steps between checkpoints; 0: only at the end"),
      number("checkpoint.keep", s.checkpoint.keep, count, "newest checkpoints kept"),
      choice("checkpoint.keep_best", s.checkpoint.keep_best,
             {{"none", KeepBest::none},
              {"tokens_per_step", KeepBest::tokens_per_step},
              {"accepted_length", KeepBest::accepted_length},
              {"accuracy_base", KeepBest::accuracy_base},
              {"accuracy_data", KeepBest::accuracy_data},
              {"loss_base", KeepBest::loss_base},
              {"loss_drafter", KeepBest::loss_drafter}},
             "also save where a validation is the best so far by this, and keep the best"),
      flag("checkpoint.background", s.checkpoint.background, "write while training goes on"),
      flag("checkpoint.export_at_end", s.checkpoint.export_at_end,
           "also write the Hugging Face pair to run.dir/hf, of the best checkpoint with keep_best"),

      number("validation.every_steps", s.validation.every_steps, count_or_none,
             "steps between validations, before the first step and after the last; 0: none"),
      number("validation.max_samples", s.validation.max_samples, count_or_none,
             "first samples of the file to validate on; 0: all"),
      number("validation.patience", s.validation.patience, count_or_none,
             "validations in a row without a better checkpoint.keep_best that end the run; 0: no limit"),

      choice("dist.reduction", s.dist.reduction, {{"ordered", Reduction::ordered}, {"fast", Reduction::fast}},
             "gradients: the same bits on any number of ranks, or plain reduce-scatter"),
      choice(
          "dist.transport", s.dist.transport,
          {{"auto", TransportChoice::automatic}, {"nccl", TransportChoice::nccl}, {"staged", TransportChoice::staged}},
          "how tensors get from GPU to GPU: auto is nccl where every rank has its own, else staged (through the host)"),
      number("dist.timeout_minutes", s.dist.timeout_minutes, positive,
             "minutes to wait for other ranks; 6 times as long while models are read or written"),
      number("dist.expert_parallel", s.dist.expert_parallel, count,
             "ranks that keep the experts between them and exchange tokens; 1: weights are exchanged"),

      path("run.dir", s.run.dir, "runs/<config's name>", "run directory"),
      choice("run.device", s.run.device,
             {{"auto", DeviceChoice::automatic}, {"cpu", DeviceChoice::cpu}, {"cuda", DeviceChoice::cuda}},
             "device; auto is cuda where the job's nodes have GPUs"),
      number("run.seed", s.run.seed, seed, "seed of initialisation and stochastic rounding"),
      number("run.threads", s.run.threads, count_or_none,
             "threads per rank; 0: OMP_NUM_THREADS, else cores / ranks of the node"),
      number("run.log_every_steps", s.run.log_every_steps, count, "steps between lines on the screen and in log.txt"),
      path("run.dump_gradients", s.run.dump_gradients, "none",
           "safetensors file for the first step's gradients before clipping"),
      flag("run.tensorboard", s.run.tensorboard, "write the curves for TensorBoard too, into run.dir"),
      flag("run.profile", s.run.profile, "measure every operation, and write run.dir/profile.json at the end"),
  };
}

}  // namespace mtp
