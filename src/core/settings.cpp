#include "mtp/core/settings.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <charconv>
#include <fstream>
#include <iterator>
#include <map>
#include <ostream>
#include <set>
#include <sstream>

#include "mtp/core/error.h"
#include "settings_table.h"

namespace mtp {
namespace {

namespace po = boost::program_options;

using Table = std::vector<SettingEntry>;
using Values = std::map<std::string, std::string>;  // as they are written, by the setting's name

// Boost only splits text into names and values; what a value means is the table's business.
po::options_description describe(const Table& table) {
  po::options_description description;
  for (const SettingEntry& entry : table) description.add_options()(entry.name.c_str(), po::value<std::string>());
  return description;
}

/// Options of a program beside the settings.
struct OwnOptions {
  std::vector<std::string> with_values, flags = {};
};

std::vector<po::option> parse_command_line(const Table& table, const OwnOptions& own, int argc,
                                           const char* const argv[]) {
  po::options_description description = describe(table);
  description.add_options()("help", "")("version", "")("quiet", "");
  for (const std::string& flag : own.flags) description.add_options()(flag.c_str(), "");
  for (const std::string& option : own.with_values) description.add_options()(option.c_str(), po::value<std::string>());
  using namespace po::command_line_style;
  try {
    return po::command_line_parser(argc, argv)
        .options(description)
        .style(allow_long | long_allow_adjacent | long_allow_next)  // no abbreviations
        .allow_unregistered()                                       // refused in our own words
        .run()
        .options;
  } catch (const po::error& error) {
    throw UsageError("command line: {}", error.what());
  }
}

std::vector<po::option> parse_stream(const Table& table, std::istream& in, const std::string& source) {
  try {
    return po::parse_config_file(in, describe(table), true).options;
  } catch (const po::error& error) {
    throw UsageError("setting config: {}: {}", source, error.what());
  }
}

/// Also as Windows' editors leave it, with a byte-order mark and carriage returns.
std::vector<po::option> parse_file(const Table& table, const std::string& path) {
  std::ifstream in(path);
  in.peek();  // a folder can be opened
  if (!in) throw UsageError("setting config: cannot read the file {}", path);
  std::string text(std::istreambuf_iterator<char>(in), {});
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  std::erase(text, '\r');
  std::istringstream lines(text);
  return parse_stream(table, lines, path);
}

void check_names(const std::vector<po::option>& options, const std::string& source) {
  std::set<std::string> seen;
  for (const po::option& option : options) {
    if (option.position_key >= 0)
      throw UsageError("{}: unexpected argument '{}', settings are given as --section.key value", source,
                       option.value.front());
    if (option.unregistered) throw UsageError("{}: unknown setting {}, see --help", source, option.string_key);
    const bool may_repeat = option.string_key == "allow-change" || option.string_key == "print";
    if (!seen.insert(option.string_key).second && !may_repeat)
      throw UsageError("{}: setting {} is given twice", source, option.string_key);
    // Boost takes the next word for the value, whatever it looks like.
    if (option.original_tokens.size() == 2 && option.value.front().starts_with("--"))
      throw UsageError("{}: setting {} has no value", source, option.string_key);
  }
}

const po::option* find(const std::vector<po::option>& options, const std::string& name) {
  const auto found = std::find_if(options.begin(), options.end(), [&](const auto& o) { return o.string_key == name; });
  return found == options.end() ? nullptr : &*found;
}

Values values_of(const std::vector<po::option>& options, const Table& table) {
  Values values;
  for (const SettingEntry& entry : table)
    if (const po::option* option = find(options, entry.name)) values[entry.name] = option->value.front();
  return values;
}

void assign(const Values& values, const Table& table) {
  for (const SettingEntry& entry : table)
    if (const auto value = values.find(entry.name); value != values.end()) entry.set(value->second);
}

void check_has_models(const Settings& s) {
  if (s.model.base.empty()) throw UsageError("setting model.base is required");
  if (s.model.drafter.empty()) throw UsageError("setting model.drafter is required");
}

void check_required(const Settings& s) {
  check_has_models(s);
  if (s.data.train.empty()) throw UsageError("setting data.train is required");
  if (s.validation.every_steps > 0 && s.data.validation.empty())
    throw UsageError("setting data.validation is required, as validation.every_steps is above 0");
  if (s.train.max_steps == 0 && s.train.max_epochs == 0)
    throw UsageError("setting train.max_steps or train.max_epochs must be above 0, else the run never ends");
}

void check_contradictions(const Settings& s) {
  if (s.train.global_batch % s.train.micro_batch != 0)
    throw UsageError("setting train.global_batch: {} is not a multiple of train.micro_batch, {}", s.train.global_batch,
                     s.train.micro_batch);
  const std::int64_t decay_steps = s.schedule.decay_steps.value_or(s.train.max_steps);
  const bool decays = s.schedule.style != ScheduleStyle::constant && decay_steps > 0;
  if (decays && s.schedule.warmup_steps.value_or(0) >= decay_steps)
    throw UsageError("setting schedule.warmup_steps: the warm-up, {} steps, must end before the decay, {} steps",
                     *s.schedule.warmup_steps, decay_steps);
  if (s.checkpoint.keep_best != KeepBest::none && s.validation.every_steps == 0)
    throw UsageError("setting checkpoint.keep_best needs validations: set validation.every_steps above 0");
  if (s.validation.patience > 0 && s.checkpoint.keep_best == KeepBest::none)
    throw UsageError("setting validation.patience needs checkpoint.keep_best, which says what is better");
  if (s.drafter.loss != RoundLoss::cross_entropy && s.drafter.target != Target::base)
    throw UsageError(
        "setting drafter.loss: only the base's own distribution has such a loss; set drafter.target = base");
  if (s.lora.of_base() && s.freeze.base)
    throw UsageError("setting lora.rank: adapters train the base, which freeze.base forbids");
  if (s.lora.of_drafter() && s.drafter.share_embedding_with_base)
    throw UsageError(
        "setting drafter.share_embedding_with_base: with lora.on = both the drafter's token table stays as it is");
}

void check(const Settings& settings) {
  check_required(settings);
  check_contradictions(settings);
}

CommandLine::Action action_of(const std::vector<po::option>& options) {
  if (find(options, "version")) return CommandLine::Action::version;
  if (find(options, "help")) return CommandLine::Action::help;
  if (find(options, "print")) return CommandLine::Action::print;
  if (find(options, "plan")) return CommandLine::Action::plan;
  return find(options, "check") ? CommandLine::Action::check : CommandLine::Action::run;
}

/// Settings that say how a run is carried out or how long, not what it computes.
bool may_change(const std::string& name) {
  static const std::set<std::string> free = {
      "model.base",           "model.drafter",        "model.base_adapter", "data.train",      "data.validation",
      "data.prefetch",        "train.max_steps",      "train.max_epochs",   "train.recompute", "optimizer.moments_on",
      "dist.expert_parallel", "dist.timeout_minutes", "dist.transport",     "run.dir",         "run.device",
      "run.threads",          "run.log_every_steps",  "run.dump_gradients", "run.profile",     "run.tensorboard"};
  return free.contains(name) || name.starts_with("checkpoint.") || name.starts_with("validation.");
}

void check_changes(const Table& saved, const Table& now, const std::vector<std::string>& allowed) {
  for (std::size_t i = 0; i < saved.size(); ++i) {
    const std::string& name = saved[i].name;
    const std::string before = saved[i].text().value_or("unset"), after = now[i].text().value_or("unset");
    if (before != after && !may_change(name) && std::ranges::count(allowed, name) == 0)
      throw UsageError(
          "setting {}: the run has {}, and {} would make it another run; --allow-change {} if that is meant", name,
          before, after, name);
  }
}

/// What `--allow-change` names.
std::vector<std::string> allowed_changes(const Table& table, const std::vector<po::option>& options) {
  std::vector<std::string> names;
  for (const po::option& option : options) {
    if (option.string_key != "allow-change") continue;
    const std::string& name = names.emplace_back(option.value.front());
    const bool is_known =
        name == "data" || name == "model" ||
        std::any_of(table.begin(), table.end(), [&](const auto& entry) { return entry.name == name; });
    if (!is_known) throw UsageError("option --allow-change: {} is neither a setting nor data nor model", name);
  }
  return names;
}

std::string section_of(const SettingEntry& entry) { return entry.name.substr(0, entry.name.find('.')); }

void print_settings(std::ostream& out) {
  out << fmt::format("{:<34}  {:<20}  {:<30}  meaning\n", "setting", "default", "type");
  Settings defaults;
  std::string section;
  for (const SettingEntry& entry : settings_table(defaults)) {
    if (section != section_of(entry)) out << '\n';
    section = section_of(entry);
    out << fmt::format("{:<34}  {:<20}  {:<30}  {}\n", entry.name, entry.text().value_or(entry.unset), entry.type,
                       entry.meaning);
  }
}

/// The value of a setting as it is written, empty where it is unset.
std::string text_of(const Table& table, const std::string& name) {
  const auto entry = std::ranges::find(table, name, &SettingEntry::name);
  if (entry == table.end()) throw UsageError("option --print: unknown setting {}, see --help", name);
  return entry->text().value_or("");
}

constexpr const char* common_options =
    "  --quiet         warnings and errors only on the screen; log.txt has all\n"
    "  --help          this text\n"
    "  --version       version, revision and libraries\n\n";

std::int64_t number_of(const po::option& option) {
  const std::string& text = option.value.front();
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 1 || number > 1'000'000)
    throw UsageError("option --{}: {} is no number from 1 to 1000000", option.string_key, text);
  return number;
}

CommandLine::PlannedJob planned_job(const std::vector<po::option>& options, const Settings& settings) {
  CommandLine::PlannedJob job;
  if (const po::option* ranks = find(options, "ranks")) job.ranks = number_of(*ranks);
  if (const po::option* per_node = find(options, "ranks-per-node")) job.ranks_per_node = number_of(*per_node);
  if (const po::option* length = find(options, "length")) job.length = number_of(*length);
  if (job.length == 0 && settings.data.train.empty())
    throw UsageError("option --plan: needs data.train, or --length in its place");
  return job;
}

}  // namespace

CommandLine parse_settings(int argc, const char* const argv[]) {
  CommandLine line;
  const Table table = settings_table(line.settings);
  const auto options = parse_command_line(
      table, {{"config", "print", "ranks", "ranks-per-node", "length"}, {"plan", "check"}}, argc, argv);
  check_names(options, "command line");
  line.action = action_of(options);
  line.quiet = find(options, "quiet") != nullptr;
  if (line.action == CommandLine::Action::help || line.action == CommandLine::Action::version) return line;

  std::string name = "default";
  if (const po::option* config = find(options, "config")) {
    const std::filesystem::path path = config->value.front();
    const auto file_options = parse_file(table, path);
    check_names(file_options, path.string());
    assign(values_of(file_options, table), table);
    name = path.stem().string();
  }
  assign(values_of(options, table), table);  // after the file: the command line wins
  Settings& settings = line.settings;
  if (settings.run.dir.empty()) settings.run.dir = std::filesystem::path("runs") / name;
  if (line.action == CommandLine::Action::plan) {
    check_has_models(settings);
    check_contradictions(settings);
    line.plan = planned_job(options, settings);
    return line;
  }
  for (const char* of_plan : {"ranks", "ranks-per-node", "length"})
    if (find(options, of_plan)) throw UsageError("option --{}: is for --plan", of_plan);
  check(settings);
  for (const po::option& option : options)
    if (option.string_key == "print") line.printed.push_back(text_of(table, option.value.front()));
  return line;
}

ResumeLine parse_resume(int argc, const char* const argv[]) {
  Settings unused;
  const Table table = settings_table(unused);
  const auto options = parse_command_line(table, {{"from", "config", "allow-change"}}, argc, argv);
  check_names(options, "command line");
  ResumeLine line{.action = action_of(options),
                  .from = {},
                  .config = {},
                  .settings = values_of(options, table),
                  .quiet = find(options, "quiet") != nullptr,
                  .allowed_changes = allowed_changes(table, options)};
  if (line.action != CommandLine::Action::run) return line;
  const po::option* from = find(options, "from");
  if (from == nullptr) throw UsageError("option --from is required: a run directory or a checkpoint");
  line.from = from->value.front();
  if (const po::option* config = find(options, "config")) line.config = config->value.front();
  return line;
}

Settings resumed_settings(const ResumeLine& line, const SavedRun& run) {
  Settings settings;
  const Table table = settings_table(settings);
  std::istringstream text(run.settings);
  assign(values_of(parse_stream(table, text, run.directory.string()), table), table);
  settings.run.dir = run.directory;
  Settings before = settings;
  assign(line.settings, table);
  check_changes(settings_table(before), table, line.allowed_changes);
  check(settings);
  return settings;
}

std::vector<std::string> differences(const ResumeLine& line, const Settings& run) {
  std::vector<std::string> found;
  if (line.config.empty()) return found;
  Settings of_run = run, of_file = run;
  const Table before = settings_table(of_run), after = settings_table(of_file);
  const auto options = parse_file(after, line.config);
  check_names(options, line.config.string());
  const Values values = values_of(options, after);
  assign(values, after);
  for (std::size_t i = 0; i < before.size(); ++i) {
    const std::string& name = before[i].name;
    const std::string holds = before[i].text().value_or("unset"), says = after[i].text().value_or("unset");
    if (name == "run.dir" || !values.contains(name) || line.settings.contains(name) || holds == says) continue;
    found.push_back(fmt::format("{} has {} = {}, the run {}, which holds; to change it: --{} {}{}",
                                line.config.string(), name, says, holds, name, says,
                                may_change(name) ? "" : fmt::format(" --allow-change {}", name)));
  }
  return found;
}

void print_help(std::ostream& out, const std::string& program) {
  out << fmt::format(
      "usage: {} [--config FILE] [--section.key value …]\n\n"
      "  --config FILE   settings file: [section] and lines key = value; the command line wins over it\n"
      "  --print NAME    prints the value of a setting, such as run.dir, and ends; may be given more than once\n"
      "  --plan          prints what memory and FLOPs the run would need, and ends; the models may be config.json "
      "alone\n"
      "    --ranks N             of the job (1)\n"
      "    --ranks-per-node N    (8)\n"
      "    --length S            positions of made-up sequences, in place of data.train\n"
      "  --check         checks whether the run can start, without GPUs, MPI or writing anything, and ends\n{}",
      program, common_options);
  print_settings(out);
}

void print_resume_help(std::ostream& out, const std::string& program) {
  out << fmt::format(
      "usage: {} --from RUN_OR_CHECKPOINT [--section.key value …] [--allow-change NAME …]\n\n"
      "  --from          a run directory (its newest sound checkpoint) or a checkpoint, whose settings hold\n"
      "  --config        the settings file that the run began with: what it says otherwise now is named\n"
      "  --allow-change  a setting that may differ although it makes this another run; data, model: the contents of "
      "the\n"
      "                  files that they name\n{}",
      program, common_options);
  print_settings(out);
}

void write_settings(std::ostream& out, const Settings& settings) {
  Settings copy = settings;
  std::string section;
  for (const SettingEntry& entry : settings_table(copy)) {
    const auto text = entry.text();
    if (!text) continue;
    if (section != section_of(entry)) out << (section.empty() ? "" : "\n") << '[' << section_of(entry) << "]\n";
    section = section_of(entry);
    out << entry.name.substr(section.size() + 1) << " = " << *text << '\n';
  }
}

}  // namespace mtp
