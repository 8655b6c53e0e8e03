#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mtp/core/settings.h"

namespace mtp {

/// One setting: everything that parsing, --help and writing need to know about it.
struct SettingEntry {
  std::string name;     // section.key
  std::string type;     // "integer, at least 1", "serving or pr2240", …
  std::string meaning;  // with its unit
  std::string unset;    // what holds where it has no value, as --help shows it

  std::function<void(const std::string&)> set;       // throws UsageError where the text is no such value
  std::function<std::optional<std::string>()> text;  // the value as `set` reads it; none where it has no value
};

/// Every setting, in the order of its sections, bound to the fields of `settings`, which must outlive the table.
std::vector<SettingEntry> settings_table(Settings& settings);

}  // namespace mtp
