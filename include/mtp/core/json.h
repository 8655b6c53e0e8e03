#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace mtp {

using Json = nlohmann::json;

/// Throw Error, naming the file, where it cannot be read or written, or is no JSON.
Json read_json(const std::filesystem::path& path);
void write_json(const std::filesystem::path& path, const Json& json);

/// Parses a text that `what` names in messages ("FILE: the header"). Nesting that no honest file has is refused:
/// copying and printing are recursive. `see` is called as Json::parse calls it.
Json parse_json(std::string_view text, const std::string& what, const Json::parser_callback_t& see = {});

/// A value for a message; an array or object, which may be large, by its kind.
std::string brief(const Json& json);

/// The value as a T, or none where it has another type or does not fit. Json's own get() truncates, wraps around and
/// turns true into 1.
template <typename T>
std::optional<T> try_get(const Json& json) {
  if constexpr (std::is_same_v<T, bool>) {
    if (json.is_boolean()) return json.get<T>();
  } else if constexpr (std::is_integral_v<T>) {
    const bool fits = json.is_number_unsigned()
                          ? std::in_range<T>(json.get<std::uint64_t>())
                          : json.is_number_integer() && std::in_range<T>(json.get<std::int64_t>());
    if (fits) return json.get<T>();
  } else if constexpr (std::is_floating_point_v<T>) {
    if (json.is_number() && std::abs(json.get<double>()) <= std::numeric_limits<T>::max()) return json.get<T>();
  } else {
    static_assert(std::is_same_v<T, std::string>);
    if (json.is_string()) return json.get<T>();
  }
  return std::nullopt;
}

}  // namespace mtp
