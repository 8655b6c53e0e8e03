#include "mtp/decode/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

namespace mtp::decode {

namespace {

double ratio(double part, double of) { return of > 0 ? part / of : 0; }

template <typename Of>
auto sum(const DecodeResult& run, const Of& of) {
  decltype(of(run.completions[0])) total = 0;
  for (const Completion& completion : run.completions) total += of(completion);
  return total;
}

std::string name_of(const DecodeResult& run, bool is_only_one) {
  if (run.drafts == 0) return "plain";
  return is_only_one ? "drafted" : fmt::format("{} draft{}", run.drafts, run.drafts == 1 ? "" : "s");
}

/// A column of the table, for one way of decoding.
std::vector<std::string> column(const DecodeResult& run, const std::string& name, std::int64_t bytes_per_forward) {
  const double read = static_cast<double>(bytes_per_forward) * static_cast<double>(run.decode_forwards());
  return {name,
          fmt::format("{}", run.prompts()),
          fmt::format("{}", run.new_tokens()),
          fmt::format("{}", run.target_forwards()),
          fmt::format("{:.3f}", run.tokens_per_forward()),
          fmt::format("{:.3f}", run.prefill_time()),
          fmt::format("{:.3f}", run.decode_time()),
          fmt::format("{:.1f}", run.tokens_per_second()),
          fmt::format("{:.1f}", ratio(read, run.decode_time()) / 1e9)};
}

/// How often the draft at each place is accepted, of the steps.
std::vector<double> acceptance(const DecodeResult& run) {
  std::vector<double> rates;
  for (const std::int64_t accepted : run.accepted_at())
    rates.push_back(ratio(static_cast<double>(accepted), static_cast<double>(run.decode_forwards())));
  return rates;
}

std::string line(std::string_view title, const std::vector<std::string>& values) {
  std::string text = fmt::format("{:<28}", title);
  for (const std::string& value : values) text += fmt::format("{:>12}", value);
  return text.substr(0, text.find_last_not_of(' ') + 1) + '\n';
}

/// For each way, or nothing where it has no drafter.
template <typename Of>
std::vector<std::string> of_drafted(std::span<const DecodeResult> runs, const Of& of) {
  std::vector<std::string> values;
  for (const DecodeResult& run : runs) values.push_back(run.drafts == 0 ? "" : of(run));
  return values;
}

std::set<std::string> names_of(const std::vector<std::string>& kinds) { return {kinds.begin(), kinds.end()}; }

/// The ways for the prompts of one kind.
std::vector<DecodeResult> of_kind(std::span<const DecodeResult> runs, const std::string& kind) {
  std::vector<DecodeResult> of_runs;
  for (const DecodeResult& run : runs) of_runs.push_back(run.of_kind(kind));
  return of_runs;
}

/// The lines about what is drafted.
std::string draft_lines(std::span<const DecodeResult> runs) {
  const auto most = std::ranges::max_element(runs, {}, &DecodeResult::drafts);
  if (most->drafts == 0) return "";
  std::string lines = line("accepted a step", of_drafted(runs, [](const DecodeResult& run) {
                             return fmt::format("{:.3f}", ratio(static_cast<double>(run.accepted()),
                                                                static_cast<double>(run.decode_forwards())));
                           }));
  for (std::int64_t place = 0; place < most->drafts; ++place)
    lines += line(fmt::format("  draft {}", place + 1), of_drafted(runs, [&](const DecodeResult& run) {
                    return place < run.drafts ? fmt::format("{:.3f}", acceptance(run)[place]) : "";
                  }));
  return lines;
}

std::string speed_up_line(std::string_view title, std::span<const DecodeResult> runs) {
  const double plain = runs.front().tokens_per_second();
  return line(title, of_drafted(runs, [&](const DecodeResult& run) {
                return fmt::format("{:.2f}", ratio(run.tokens_per_second(), plain));
              }));
}

/// Tokens a forward, and the speed-up where there is a way without drafter.
std::string kind_lines(std::span<const DecodeResult> runs) {
  std::string lines;
  for (const std::string& kind : names_of(runs.front().kinds)) {
    const std::vector<DecodeResult> own = of_kind(runs, kind);
    lines +=
        line(fmt::format("tokens a forward, {}", kind),
             of_drafted(own, [](const DecodeResult& run) { return fmt::format("{:.3f}", run.tokens_per_forward()); }));
    if (runs.front().drafts == 0) lines += speed_up_line(fmt::format("  speed-up, {}", kind), own);
  }
  return lines;
}

Json aggregate(const DecodeResult& run) {
  Json all{{"prompts", run.prompts()},
           {"new_tokens", run.new_tokens()},
           {"target_forwards", run.target_forwards()},
           {"prefill_time", run.prefill_time()},
           {"decode_time", run.decode_time()},
           {"tokens_per_second", run.tokens_per_second()},
           {"tokens_per_forward", run.tokens_per_forward()}};
  if (run.drafts > 0)
    all.update({{"drafted", run.drafted()}, {"accepted", run.accepted()}, {"accepted_at", run.accepted_at()}});
  return all;
}

}  // namespace

std::int64_t DecodeResult::new_tokens() const {
  return sum(*this, [](const Completion& c) { return static_cast<std::int64_t>(c.output_ids.size()); });
}
std::int64_t DecodeResult::target_forwards() const {
  return sum(*this, [](const Completion& c) { return c.target_forwards; });
}
std::int64_t DecodeResult::drafted() const {
  return sum(*this, [](const Completion& c) { return c.drafted; });
}
std::int64_t DecodeResult::accepted() const {
  return sum(*this, [](const Completion& c) { return c.accepted(); });
}
std::vector<std::int64_t> DecodeResult::accepted_at() const {
  std::vector<std::int64_t> total(static_cast<std::size_t>(drafts));
  for (const Completion& c : completions)
    std::transform(total.begin(), total.end(), c.accepted_at.begin(), total.begin(), std::plus<>());
  return total;
}
double DecodeResult::prefill_time() const {
  return sum(*this, [](const Completion& c) { return c.prefill_time; });
}
double DecodeResult::decode_time() const {
  return sum(*this, [](const Completion& c) { return c.decode_time; });
}
double DecodeResult::tokens_per_second() const {
  return ratio(static_cast<double>(new_tokens() - prompts()), decode_time());
}
double DecodeResult::tokens_per_forward() const {
  return ratio(static_cast<double>(new_tokens()), static_cast<double>(target_forwards()));
}

DecodeResult DecodeResult::of_kind(const std::string& kind) const {
  DecodeResult own{.drafts = drafts, .kinds = {}, .prompt_tokens = {}, .completions = {}};
  for (std::size_t i = 0; i < completions.size(); ++i)
    if (kinds[i] == kind) {
      own.prompt_tokens.push_back(prompt_tokens[i]);
      own.completions.push_back(completions[i]);
    }
  return own;
}

const DecodeResult& fastest(std::span<const DecodeResult> runs) {
  return *std::ranges::max_element(runs, {}, &DecodeResult::tokens_per_second);
}

Json summary(const DecodeResult& run) {
  Json all{{"aggregate", aggregate(run)}};
  for (const std::string& kind : names_of(run.kinds)) all["kinds"][kind] = aggregate(run.of_kind(kind));
  return all;
}

Json to_json(const DecodeResult& run) {
  Json all = summary(run);
  Json& prompts = all["prompts"] = Json::array();
  for (std::size_t i = 0; i < run.completions.size(); ++i) {
    const Completion& c = run.completions[i];
    Json& prompt = prompts.emplace_back(Json{{"index", i},
                                             {"prompt_tokens", run.prompt_tokens[i]},
                                             {"new_tokens", c.output_ids.size()},
                                             {"output_ids", c.output_ids},
                                             {"target_forwards", c.target_forwards},
                                             {"prefill_time", c.prefill_time},
                                             {"decode_time", c.decode_time}});
    if (!run.kinds.empty()) prompt["kind"] = run.kinds[i];
    if (run.drafts > 0)
      prompt.update({{"drafted", c.drafted},
                     {"accepted", c.accepted()},
                     {"accepted_at", c.accepted_at},
                     {"accepted_by_forward", c.accepted_by_forward}});
  }
  return all;
}

std::string to_table(std::span<const DecodeResult> runs, std::int64_t bytes_per_forward) {
  constexpr const char* rows[] = {
      "",           "prompts",   "new tokens",           "target forwards",          "tokens a forward",
      "prefill, s", "decode, s", "tokens/s of decoding", "base's weights read, GB/s"};
  const auto drafted = runs.subspan(runs.front().drafts == 0 ? 1 : 0);
  std::vector<std::vector<std::string>> columns;
  for (const DecodeResult& run : runs)
    columns.push_back(column(run, name_of(run, drafted.size() == 1), bytes_per_forward));
  std::string table;
  for (std::size_t i = 0; i < std::size(rows); ++i) {
    std::vector<std::string> values;
    for (const auto& of_way : columns) values.push_back(of_way[i]);
    table += line(rows[i], values);
  }
  table += draft_lines(runs);
  if (!drafted.empty() && drafted.size() < runs.size()) table += speed_up_line("speed-up", runs);
  if (!drafted.empty()) table += kind_lines(runs);
  if (drafted.size() > 1) table += fmt::format("fastest with {}\n", name_of(fastest(drafted), false));
  return table;
}

}  // namespace mtp::decode
