#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "mtp/core/append_file.h"

namespace mtp::train {

/// What TensorBoard shows of a run: a file of `Event` messages in records with checksums.
/// Sources: tensorflow/core/lib/io/record_writer.h, tensorboard/compat/proto/{event,summary,tensor}.proto.
class EventFile {
 public:
  /// Keeps the events of steps up to `last_step`, after which a resumed run continues; a new file begins with
  /// `settings`, as a text. Throws Error where it cannot be written.
  EventFile(const std::filesystem::path& path, std::int64_t last_step, const std::string& settings);

  /// Every number of a line of JSON at its "step": "loss" becomes the curve KIND/loss, a list the curves
  /// KIND/loss_drafter/round_0 …, an object's member KIND/KEY/MEMBER.
  void add(const std::string& kind, const std::string& line);
  void finish() { file_.finish(); }

 private:
  AppendFile file_;
};

}  // namespace mtp::train
