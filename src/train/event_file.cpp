#include "mtp/train/event_file.h"

#include <fmt/format.h>

#include <bit>
#include <boost/crc.hpp>
#include <chrono>
#include <cstring>
#include <fstream>
#include <optional>
#include <regex>
#include <string_view>

#include "mtp/core/json.h"

namespace mtp::train {

namespace {

static_assert(std::endian::native == std::endian::little, "records and messages are");

// Protocol Buffers: a message is a row of fields, each with its number and what kind of value follows.

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes += static_cast<char>(value);
}

template <typename T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::string key(int number, int kind) { return varint(static_cast<std::uint64_t>(number << 3 | kind)); }
std::string integer(int number, std::int64_t value) {
  return key(number, 0) + varint(static_cast<std::uint64_t>(value));
}
std::string number(int number, double value) { return key(number, 1) + raw(value); }
std::string number(int number, float value) { return key(number, 5) + raw(value); }
/// A string, or a message in a message.
std::string text(int number, std::string_view value) {
  return key(number, 2) + varint(value.size()) + std::string(value);
}

std::string event(std::int64_t step, const std::string& what) {
  const std::chrono::duration<double> time = std::chrono::system_clock::now().time_since_epoch();
  return number(1, time.count()) + integer(2, step) + what;
}

std::string version_event() { return event(0, text(3, "brain.Event:2")); }

/// In TensorBoard's text plug-in, which takes it for Markdown: four blanks make it code.
std::string text_event(const std::string& name, const std::string& value) {
  constexpr int is_string = 7, is_tensor = 2;
  const std::string code = "    " + std::regex_replace(value, std::regex("\n"), "\n    ");
  const std::string tensor = integer(1, is_string) + text(2, "") + text(8, code);
  const std::string metadata = text(1, text(1, "text")) + integer(4, is_tensor);
  return event(0, text(5, text(1, text(1, name) + text(8, tensor) + text(9, metadata))));
}

std::string scalar(const std::string& name, double value) {
  return text(1, text(1, name) + number(2, static_cast<float>(value)));
}

/// A summary of every number in a value, but for tables such as every expert's load in every layer: thousands of curves
/// that nobody looks at.
std::string scalars(const std::string& name, const Json& value) {
  if (const std::optional<double> number = try_get<double>(value)) return scalar(name, *number);
  const bool is_list = value.is_array();
  if (is_list && !value.empty() && value[0].is_array()) return {};
  const std::string member_name = name.find("/expert_") == std::string::npos ? "round" : "layer";
  std::string found;
  for (const auto& [member, part] : value.items()) {
    if (name.find('/') == std::string::npos && member == "step") continue;
    found += scalars(is_list ? fmt::format("{}/{}_{}", name, member_name, member) : name + "/" + member, part);
  }
  return found;
}

std::uint32_t checksum(std::string_view bytes) {
  boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true> crc;  // CRC-32C
  crc.process_bytes(bytes.data(), bytes.size());
  const std::uint32_t sum = crc.checksum();
  return std::rotr(sum, 15) + 0xA282EAD8;  // masked, as sums of data that holds sums are weak
}

std::string record(const std::string& message) {
  const std::string length = raw(std::uint64_t{message.size()});
  return length + raw(checksum(length)) + message + raw(checksum(message));
}

template <typename T>
bool read(std::istream& in, T& value) {
  return static_cast<bool>(in.read(reinterpret_cast<char*>(&value), sizeof(T)));
}

/// The next record's message; none at the end and where a killed run has left a part of one.
std::optional<std::string> next_message(std::istream& in) {
  std::uint64_t length = 0;
  std::uint32_t of_length = 0, of_message = 0;
  if (!read(in, length) || !read(in, of_length) || checksum(raw(length)) != of_length) return std::nullopt;
  std::string message(length, '\0');
  if (!in.read(message.data(), static_cast<std::streamsize>(length)) || !read(in, of_message)) return std::nullopt;
  return checksum(message) == of_message ? std::optional(message) : std::nullopt;
}

/// Of an event as `event` makes it, in which the step follows the time.
std::int64_t step_of(const std::string& message) {
  std::uint64_t step = 0;
  std::size_t at = key(1, 1).size() + sizeof(double) + key(2, 0).size();
  for (int shift = 0; at < message.size(); shift += 7, ++at) {
    step |= (static_cast<std::uint64_t>(message[at]) & 0x7F) << shift;
    if ((message[at] & 0x80) == 0) break;
  }
  return static_cast<std::int64_t>(step);
}

/// The length of a file's events up to a step.
std::uintmax_t bytes_up_to(const std::filesystem::path& path, std::int64_t last_step) {
  std::uintmax_t bytes = 0;
  std::ifstream in(path, std::ios::binary);
  while (const auto message = next_message(in)) {
    if (step_of(*message) > last_step) break;
    bytes += record(*message).size();
  }
  return bytes;
}

}  // namespace

EventFile::EventFile(const std::filesystem::path& path, std::int64_t last_step, const std::string& settings)
    : file_(path, bytes_up_to(path, last_step)) {
  if (std::filesystem::file_size(path) == 0)
    file_.append(record(version_event()) + record(text_event("settings", settings)));
}

void EventFile::add(const std::string& kind, const std::string& line) {
  const Json values = parse_json(line, "a line of " + kind);
  file_.append(record(event(values.value("step", std::int64_t{0}), text(5, scalars(kind, values)))));
}

}  // namespace mtp::train
