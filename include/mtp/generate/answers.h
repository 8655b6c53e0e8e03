#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "mtp/core/file.h"
#include "mtp/core/json.h"

// Answers on their way, in a folder: job.json, what they depend on, and part_0000.jsonl, part_0001.jsonl, … with a line
// for each conversation that is complete, {"conversation": 12, "answers": [[tokens], …]}. A part has one writer and is
// never written again. A line that was cut off by a kill is none.

namespace mtp::generate {

/// The answers to the turns of a conversation. There may be fewer than turns; none: it was left out.
using Answers = std::vector<std::vector<std::int64_t>>;

/// Begins in a folder that is there, or goes on in it if it was begun with the same job. `job`: values by the options
/// that they come from; "OPTION/FILE" is a file's fingerprint. Throws UsageError that names what is another.
void begin_job(const std::filesystem::path& folder, const Json& job);

/// A new part.
class AnswersWriter {
 public:
  AnswersWriter(const std::filesystem::path& folder, std::int64_t part);

  /// Is safe from a kill at once, and from a crash of the machine some seconds later. Throws Error.
  void append(std::int64_t conversation, const Answers& answers);
  /// Waits until all are on the disk.
  void sync();

 private:
  RandomAccessFile file_;
  std::int64_t bytes_ = 0;
  double last_sync_;  // seconds
};

/// All parts of a folder.
class AnswersReader {
 public:
  /// `conversations`: how many there are in all. Throws Error where a part cannot be read.
  AnswersReader(const std::filesystem::path& folder, std::int64_t conversations);

  /// The number of a new part, as are those after it.
  std::int64_t next_part() const { return next_part_; }
  bool has(std::int64_t conversation) const { return places_[conversation].part >= 0; }
  /// Throws Error where there are none.
  Answers read(std::int64_t conversation) const;

 private:
  struct Place {
    std::int64_t part = -1, begin = 0, bytes = 0;
  };
  void index(std::int64_t part);

  std::filesystem::path folder_;
  std::vector<std::filesystem::path> parts_;
  std::int64_t next_part_ = 0;
  std::vector<Place> places_;  // [conversations]
};

}  // namespace mtp::generate
