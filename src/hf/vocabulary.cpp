#include "mtp/hf/vocabulary.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <regex>

#include "mtp/core/error.h"
#include "mtp/core/json.h"

namespace mtp::hf {

namespace {

constexpr const char* space = "\u2581";  // ▁
constexpr std::int64_t most_tokens = std::int64_t{1} << 24;

std::string utf8(unsigned code) {
  std::string text;
  if (code < 0x80) return {static_cast<char>(code)};
  text += static_cast<char>(0xC0 | code >> 6);
  text += static_cast<char>(0x80 | (code & 0x3F));
  return text;
}

/// The printable character that stands for each byte in a byte-level vocabulary.
std::map<std::string, char> byte_level_characters() {
  std::map<std::string, char> bytes;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool is_itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    bytes[utf8(is_itself ? byte : next++)] = static_cast<char>(byte);
  }
  return bytes;
}

std::string from_byte_level(const std::string& token) {
  static const std::map<std::string, char> bytes = byte_level_characters();
  std::string text;
  for (std::size_t i = 0; i < token.size();) {
    const std::size_t length = (token[i] & 0x80) == 0 ? 1 : 2;
    const auto found = bytes.find(token.substr(i, length));
    if (found == bytes.end()) return token;
    text += found->second;
    i += length;
  }
  return text;
}

std::string from_byte_fallback(const std::string& token) {
  static const std::regex byte("<0x([0-9A-F]{2})>");
  if (std::smatch match; std::regex_match(token, match, byte))
    return {static_cast<char>(std::stoi(match[1], nullptr, 16))};
  return std::regex_replace(token, std::regex(space), " ");
}

bool has_decoder(const Json& decoder, const std::string& type) {
  if (!decoder.is_object()) return false;
  if (decoder.value("type", "") == type) return true;
  for (const Json& part : decoder.value("decoders", Json::array()))
    if (has_decoder(part, type)) return true;
  return false;
}

}  // namespace

Vocabulary::Vocabulary(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer.json";
  const Json file = read_json(path);
  const auto add = [&](const Json& id, std::string bytes) {
    const std::optional<std::int64_t> index = try_get<std::int64_t>(id);
    if (!index || *index < 0 || *index >= most_tokens)
      throw Error("{}: a token has no id but {}", path.string(), brief(id));
    if (*index >= std::ssize(bytes_)) bytes_.resize(static_cast<std::size_t>(*index) + 1);
    bytes_[static_cast<std::size_t>(*index)] = std::move(bytes);
  };
  try {
    const bool is_byte_level = has_decoder(file.at("decoder"), "ByteLevel");
    if (!is_byte_level && !has_decoder(file.at("decoder"), "ByteFallback"))
      throw Error("{}: has a decoder of another kind than Gemma's and byte-level BPE; leave out --tokenizer",
                  path.string());
    for (const auto& [token, id] : file.at("model").at("vocab").items())
      add(id, is_byte_level ? from_byte_level(token) : from_byte_fallback(token));
    for (const Json& token : file.value("added_tokens", Json::array()))
      add(token.at("id"), token.at("content").get<std::string>());
  } catch (const Json::exception& error) {
    throw Error("{}: is no tokenizer of Hugging Face's library: {}", path.string(), error.what());
  }
}

std::string Vocabulary::text(const std::vector<std::int64_t>& ids) const {
  std::string text;
  for (const std::int64_t id : ids) {
    const bool is_known = id >= 0 && id < std::ssize(bytes_) && !bytes_[static_cast<std::size_t>(id)].empty();
    text += is_known ? bytes_[static_cast<std::size_t>(id)] : fmt::format("<id {}>", id);
  }
  return text;
}

}  // namespace mtp::hf
