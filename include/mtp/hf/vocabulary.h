#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace mtp::hf {

/// The bytes of each token of a tokenizer.json: to look at samples, where nothing is to be tokenised.
///
/// Known are tokenizers of Gemma's kind (BPE with "▁" for a space and "<0x0A>" for a byte) and byte-level BPE.
/// Source: the decoders Replace, ByteFallback and ByteLevel of Hugging Face's tokenizers.
class Vocabulary {
 public:
  /// Of a model's directory. Throws Error for a file that is missing or of another kind.
  explicit Vocabulary(const std::filesystem::path& directory);

  /// Of consecutive tokens; one without a place in the vocabulary shows as "<id 7>". A text may begin or end within a
  /// character.
  std::string text(const std::vector<std::int64_t>& ids) const;

 private:
  std::vector<std::string> bytes_;  // by id; empty where there is no such token
};

}  // namespace mtp::hf
