#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <variant>
#include <vector>

#include "mtp/data/data_file.h"
#include "mtp/data/data_writer.h"
#include "mtp/data/prompts_file.h"

namespace mtp::generate {

/// Which turns of a conversation are answered anew.
enum class Turns { all, last };

/// What is to be answered: prompts, or the conversations of a data file, whose targets are the turns that another gave.
class Conversations {
 public:
  using Ids = std::vector<std::int64_t>;

  /// Throw Error where the file cannot be read, or has images or sound, which a new data file cannot hold yet.
  static Conversations of_prompts(const std::filesystem::path& path);
  static Conversations of_data(const std::filesystem::path& path, Turns turns);

  std::int64_t count() const;
  data::DataWriter::Header header() const;
  /// As TokenLists has it.
  void check_base(const std::filesystem::path& directory, std::int64_t vocab_size) const;

  /// What stands before each answer of conversation i, without the answers before; those of the data that stay are part
  /// of it. None where there is nothing to answer, or nothing before an answer. `refused`: media tokens.
  std::vector<Ids> contexts(std::int64_t i, std::span<const std::int64_t> refused) const;

 private:
  using File = std::variant<data::PromptsFile, data::DataFile>;
  Conversations(File file, Turns turns);

  File file_;
  Turns turns_;
};

/// The contexts of a sample: what stands before each run of targets, or before its last one.
std::vector<Conversations::Ids> contexts_of(const data::Sample& sample, Turns turns);

}  // namespace mtp::generate
