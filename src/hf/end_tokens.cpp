#include "mtp/hf/end_tokens.h"

#include <optional>

#include "mtp/core/error.h"
#include "mtp/core/json.h"

namespace mtp::hf {

namespace {

constexpr const char* key = "eos_token_id";

bool has_end_tokens(const Json& config) { return config.is_object() && config.contains(key) && !config[key].is_null(); }

std::vector<std::int64_t> end_tokens(const Json& config, const std::filesystem::path& path) {
  const Json list = config[key].is_array() ? config[key] : Json::array({config[key]});
  std::vector<std::int64_t> tokens;
  for (const Json& entry : list) {
    const std::optional<std::int64_t> token = try_get<std::int64_t>(entry);
    if (!token) throw Error("{}: {} must be a token or a list of tokens, not {}", path.string(), key, brief(entry));
    tokens.push_back(*token);
  }
  return tokens;
}

}  // namespace

std::vector<std::int64_t> read_end_tokens(const std::filesystem::path& directory) {
  if (const auto path = directory / "generation_config.json"; std::filesystem::exists(path))
    if (const Json config = read_json(path); has_end_tokens(config)) return end_tokens(config, path);
  const auto path = directory / "config.json";
  const Json config = read_json(path);
  if (has_end_tokens(config)) return end_tokens(config, path);
  if (config.contains("text_config") && has_end_tokens(config["text_config"]))
    return end_tokens(config["text_config"], path);
  return {};
}

}  // namespace mtp::hf
