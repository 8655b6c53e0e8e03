#include "mtp/decode/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace mtp::decode {

namespace {

double ratio(double part, double of) { return of > 0 ? part / of : 0; }

template <typename Of>
auto sum(const DecodeResult& run, const Of& of) {
  decltype(of(run.completions[0])) total = 0;
  for (const Completion& completion : run.completions) total += of(completion);
  return total;
}

/// A column of the table, for one way of decoding.
std::vector<std::string> column(const DecodeResult& run, const char* name, std::int64_t bytes_per_forward) {
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

std::string draft_lines(const DecodeResult& run) {
  const auto steps = static_cast<double>(run.decode_forwards());
  std::vector<double> rates;
  for (const std::int64_t accepted : run.accepted_at()) rates.push_back(ratio(static_cast<double>(accepted), steps));
  return fmt::format("{:<28}{:>12.3f}\n{:<28}{:.3f}\n", "accepted a step",
                     ratio(static_cast<double>(run.accepted()), steps), "accepted at each place",
                     fmt::join(rates, " "));
}

}  // namespace

std::int64_t DecodeResult::new_tokens() const {
  return sum(*this, [](const Completion& c) { return static_cast<std::int64_t>(c.output_ids.size()); });
}
std::int64_t DecodeResult::target_forwards() const {
  return sum(*this, [](const Completion& c) { return c.target_forwards; });
}
std::int64_t DecodeResult::accepted() const {
  return sum(*this, [](const Completion& c) { return c.accepted(); });
}
std::vector<std::int64_t> DecodeResult::accepted_at() const {
  std::vector<std::int64_t> total(completions.front().accepted_at.size());
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

Json to_json(const DecodeResult& run, bool with_drafter) {
  Json prompts = Json::array();
  for (std::size_t i = 0; i < run.completions.size(); ++i) {
    const Completion& c = run.completions[i];
    Json& prompt = prompts.emplace_back(Json{{"index", i},
                                             {"prompt_tokens", run.prompt_tokens[i]},
                                             {"new_tokens", c.output_ids.size()},
                                             {"output_ids", c.output_ids},
                                             {"target_forwards", c.target_forwards},
                                             {"prefill_time", c.prefill_time},
                                             {"decode_time", c.decode_time}});
    if (with_drafter)
      prompt.update({{"drafted", c.drafted},
                     {"accepted", c.accepted()},
                     {"accepted_at", c.accepted_at},
                     {"accepted_by_forward", c.accepted_by_forward}});
  }
  return {{"aggregate",
           {{"prompts", run.prompts()},
            {"new_tokens", run.new_tokens()},
            {"target_forwards", run.target_forwards()},
            {"prefill_time", run.prefill_time()},
            {"decode_time", run.decode_time()},
            {"tokens_per_second", run.tokens_per_second()},
            {"tokens_per_forward", run.tokens_per_forward()}}},
          {"prompts", std::move(prompts)}};
}

std::string to_table(const DecodeResult* plain, const DecodeResult* drafted, std::int64_t bytes_per_forward) {
  constexpr const char* rows[] = {
      "",           "prompts",   "new tokens",           "target forwards",          "tokens a forward",
      "prefill, s", "decode, s", "tokens/s of decoding", "base's weights read, GB/s"};
  std::vector<std::vector<std::string>> columns;
  if (plain != nullptr) columns.push_back(column(*plain, "plain", bytes_per_forward));
  if (drafted != nullptr) columns.push_back(column(*drafted, "drafted", bytes_per_forward));
  std::string table;
  for (std::size_t i = 0; i < std::size(rows); ++i) {
    table += fmt::format("{:<28}", rows[i]);
    for (const auto& values : columns) table += fmt::format("{:>12}", values[i]);
    table += '\n';
  }
  if (drafted != nullptr) table += draft_lines(*drafted);
  if (plain != nullptr && drafted != nullptr)
    table +=
        fmt::format("{:<28}{:>12.2f}\n", "speed-up", ratio(drafted->tokens_per_second(), plain->tokens_per_second()));
  return table;
}

}  // namespace mtp::decode
