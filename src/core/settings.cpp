#include "mtp/core/settings.h"

#include <algorithm>
#include <boost/program_options.hpp>
#include <fstream>
#include <ostream>
#include <set>

#include "mtp/core/error.h"
#include "settings_table.h"

namespace mtp {
namespace {

namespace po = boost::program_options;

using Table = std::vector<SettingEntry>;

// Boost only splits text into names and values; what a value means is the table's business.
po::options_description describe(const Table& table) {
  po::options_description description;
  for (const SettingEntry& entry : table) description.add_options()(entry.name.c_str(), po::value<std::string>());
  return description;
}

std::vector<po::option> parse_command_line(const Table& table, int argc, const char* const argv[]) {
  po::options_description description = describe(table);
  description.add_options()("config", po::value<std::string>())("help", "")("version", "");
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

std::vector<po::option> parse_file(const Table& table, const std::string& path) {
  std::ifstream in(path);
  if (!in || std::filesystem::is_directory(path)) throw UsageError("setting config: cannot read the file {}", path);
  try {
    return po::parse_config_file(in, describe(table), true).options;
  } catch (const po::error& error) {
    throw UsageError("setting config: {}: {}", path, error.what());
  }
}

void check_names(const std::vector<po::option>& options, const std::string& source) {
  std::set<std::string> seen;
  for (const po::option& option : options) {
    if (option.position_key >= 0)
      throw UsageError("{}: unexpected argument '{}', settings are given as --section.key value", source,
                       option.value.front());
    if (option.unregistered) throw UsageError("{}: unknown setting {}, see --help", source, option.string_key);
    if (!seen.insert(option.string_key).second)
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

void apply(const std::vector<po::option>& options, const Table& table) {
  for (const SettingEntry& entry : table)
    if (const po::option* option = find(options, entry.name)) entry.set(option->value.front());
}

void check_required(const Settings& s) {
  if (s.model.base.empty()) throw UsageError("setting model.base is required");
  if (s.model.drafter.empty()) throw UsageError("setting model.drafter is required");
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
}

// What the contract knows and this version does not: refused, because a run without it would be another run.
void check_built(const Settings& s) {
  if (s.train.compute_dtype == ComputeType::bf16)
    throw UsageError("setting train.compute_dtype: bf16 is not built yet, use fp32");
  if (s.run.device == DeviceChoice::cuda) throw UsageError("setting run.device: cuda is not built yet, use cpu");
  if (!s.freeze.vision)
    throw UsageError("setting freeze.vision: the vision tower cannot be trained yet, it must be true");
  if (!s.freeze.audio) throw UsageError("setting freeze.audio: the audio tower cannot be trained yet, it must be true");
}

std::string section_of(const SettingEntry& entry) { return entry.name.substr(0, entry.name.find('.')); }

}  // namespace

CommandLine parse_settings(int argc, const char* const argv[]) {
  CommandLine line;
  const Table table = settings_table(line.settings);
  const auto options = parse_command_line(table, argc, argv);
  check_names(options, "command line");
  if (find(options, "help")) line.action = CommandLine::Action::help;
  if (find(options, "version")) line.action = CommandLine::Action::version;
  if (line.action != CommandLine::Action::run) return line;

  std::string name = "default";
  if (const po::option* config = find(options, "config")) {
    const std::filesystem::path path = config->value.front();
    const auto file_options = parse_file(table, path);
    check_names(file_options, path.string());
    apply(file_options, table);
    name = path.stem().string();
  }
  apply(options, table);  // after the file: the command line wins
  Settings& settings = line.settings;
  if (settings.run.dir.empty()) settings.run.dir = std::filesystem::path("runs") / name;
  check_required(settings);
  check_contradictions(settings);
  check_built(settings);
  return line;
}

void print_help(std::ostream& out, const std::string& program) {
  out << fmt::format(
      "usage: {} [--config FILE] [--section.key value …]\n\n"
      "  --config FILE   settings file: [section] and lines key = value; the command line wins over it\n"
      "  --help          this text\n"
      "  --version       version, revision and libraries\n\n"
      "{:<34}  {:<20}  {:<30}  meaning\n",
      program, "setting", "default", "type");
  Settings defaults;
  std::string section;
  for (const SettingEntry& entry : settings_table(defaults)) {
    if (section != section_of(entry)) out << '\n';
    section = section_of(entry);
    out << fmt::format("{:<34}  {:<20}  {:<30}  {}\n", entry.name, entry.text().value_or(entry.unset), entry.type,
                       entry.meaning);
  }
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
