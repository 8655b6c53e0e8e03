#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace mtp {

enum class Alignment { serving, pr2240 };
enum class Head { dense, masked };
enum class Target { data, base };
enum class RoundLoss { cross_entropy, total_variation, mixed };
enum class Adapted { base, both };
enum class ComputeType { fp32, bf16 };
enum class Moments { fp32, bf16 };
enum class MomentsPlace { device, host };
enum class ScheduleStyle { constant, linear, cosine };
enum class KeepBest { none, tokens_per_step, accepted_length, accuracy_base, accuracy_data, loss_base, loss_drafter };
enum class Reduction { ordered, fast };
enum class DeviceChoice { automatic, cpu, cuda };
enum class TransportChoice { automatic, nccl, staged };

/// Every setting of a run with its default; src/core/settings_table.cpp gives their meaning, as `--help` shows it.
/// Names in files and on the command line are `section.key`.
struct Settings {
  struct Model {
    std::filesystem::path base, drafter;
    std::filesystem::path base_adapter = {};  // of PEFT, to go on from; empty: none
  } model;
  struct Data {
    std::filesystem::path train, validation;
    std::int64_t max_length = 0;  // tokens a sample is cut to; 0: uncut
    bool shuffle = true;
    std::uint64_t seed = 42;
    std::int64_t prefetch = 2;  // micro-batches read ahead
  } data;
  struct Drafter {
    std::int64_t rounds = 4;
    double loss_weight = 0.01;
    double round_weights = 1;  // β: round k's loss counts β^k times
    bool detach = false;
    Alignment alignment = Alignment::serving;
    std::int64_t position_offset = 1;
    Head head = Head::dense;
    Target target = Target::data;
    RoundLoss loss = RoundLoss::cross_entropy;
    bool share_embedding_with_base = false;

    /// λ β^k: what a step's loss has of the loss of round k.
    double weight(std::int64_t k) const { return loss_weight * std::pow(round_weights, static_cast<double>(k)); }
  } drafter;
  struct Freeze {
    bool base = false, embeddings = false;
    bool vision = true, vision_projector = true;
    bool audio = true, audio_projector = true;
  } freeze;
  struct Lora {
    std::int64_t rank = 0;        // of the adapters; 0: none, and the models themselves are trained
    std::optional<double> alpha;  // default: rank
    std::vector<std::string> targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};
    Adapted on = Adapted::base;
    double dropout = 0;  // the only value that there is

    bool of_base() const { return rank > 0; }
    bool of_drafter() const { return rank > 0 && on == Adapted::both; }
    /// What an adapter's product counts.
    double scale() const { return alpha ? *alpha / static_cast<double>(rank) : 1; }
  } lora;
  struct Train {
    std::int64_t max_steps = 0;   // 0: no limit
    std::int64_t max_epochs = 0;  // 0: no limit
    std::int64_t global_batch = 8, micro_batch = 1;
    std::optional<ComputeType> compute_dtype;  // default: bf16 on GPUs, fp32 on CPUs
    bool recompute = false;
  } train;
  struct Optimizer {
    double lr = 1e-5, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.01, max_grad_norm = 1.0;
    Moments moments = Moments::fp32;
    MomentsPlace moments_on = MomentsPlace::device;
  } optimizer;
  struct Schedule {
    ScheduleStyle style = ScheduleStyle::cosine;
    std::optional<std::int64_t> warmup_steps, decay_steps;  // default: ⌊0.1 · steps⌋, steps
    std::optional<double> init_lr, min_lr;                  // default: 0.1 · lr, 0.01 · lr
  } schedule;
  struct Checkpoint {
    std::int64_t every_steps = 0, keep = 2;
    KeepBest keep_best = KeepBest::none;
    bool background = true, export_at_end = false;
  } checkpoint;
  struct Validation {
    std::int64_t every_steps = 0, max_samples = 0;
    std::int64_t patience = 0;  // validations; 0: no limit
  } validation;
  struct Dist {
    Reduction reduction = Reduction::ordered;
    TransportChoice transport = TransportChoice::automatic;
    double timeout_minutes = 10;
    std::int64_t expert_parallel = 1;
  } dist;
  struct Run {
    std::filesystem::path dir;
    DeviceChoice device = DeviceChoice::automatic;
    std::uint64_t seed = 0;
    std::int64_t threads = 0;  // per rank; 0: OMP_NUM_THREADS, else cores / ranks of this node
    std::int64_t log_every_steps = 1;
    std::filesystem::path dump_gradients;
    bool profile = false, tensorboard = false;
  } run;
};

/// What a command line asked for.
struct CommandLine {
  enum class Action { run, help, version, print, plan, check } action = Action::run;
  Settings settings;
  std::vector<std::string> printed;  // the values of the settings that --print names
  bool quiet = false;
  struct PlannedJob {
    std::int64_t ranks = 1, ranks_per_node = 8;
    std::int64_t length = 0;  // positions of every sequence; 0: as in data.train
  } plan;                     // what --plan is asked about
};

/// Parses `[--config FILE] [--section.key value …] [--print NAME …] [--plan …] [--check] [--help] [--version]`. The
/// command line wins over the file. Throws UsageError in one line that names the setting: an unknown key, a value of
/// the wrong type or out of range, a missing required setting, a contradiction that settings alone show.
CommandLine parse_settings(int argc, const char* const argv[]);

/// What a command line that resumes asked for: `--from RUN_OR_CHECKPOINT [--section.key value …] [--allow-change NAME
/// …]`.
struct ResumeLine {
  CommandLine::Action action = CommandLine::Action::run;
  std::filesystem::path from;
  std::filesystem::path config;                 // the settings file that the run began with; empty where none is named
  std::map<std::string, std::string> settings;  // that it gives, as they are written
  bool quiet = false;
  /// Names of settings, and "data" and "model" for the contents of the files that they name.
  std::vector<std::string> allowed_changes;
};

/// Throws UsageError like parse_settings.
ResumeLine parse_resume(int argc, const char* const argv[]);

/// What a checkpoint says of its run.
struct SavedRun {
  std::string settings;             // as write_settings wrote them
  std::filesystem::path directory;  // where the run is now
};

/// The settings of a run that goes on: the command line wins over what was saved. Throws UsageError like
/// parse_settings, and where a setting that is part of the run's mathematics would change without being allowed to.
Settings resumed_settings(const ResumeLine& line, const SavedRun& run);

/// What the settings file that a resume names says otherwise than the run's settings, which hold: a line for each
/// setting that says what to do about it. Throws UsageError for a file that cannot be read.
std::vector<std::string> differences(const ResumeLine& line, const Settings& run);

/// The table of every setting: name, type, default, unit and meaning.
void print_help(std::ostream& out, const std::string& program);
void print_resume_help(std::ostream& out, const std::string& program);

/// Writes settings as a file that `--config` reads back to the same values.
void write_settings(std::ostream& out, const Settings& settings);

}  // namespace mtp
