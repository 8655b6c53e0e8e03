#include "mtp/generate/answers.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <regex>
#include <span>
#include <string>
#include <string_view>

#include "mtp/core/error.h"

namespace mtp::generate {

namespace fs = std::filesystem;

namespace {

constexpr double seconds_between_syncs = 5;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

fs::path part_path(const fs::path& folder, std::int64_t part) { return folder / fmt::format("part_{:04}.jsonl", part); }

/// Of a part; -1 of another file.
std::int64_t number_of(const fs::path& path) {
  static const std::regex name("part_(\\d{4,9})\\.jsonl");
  std::smatch found;
  const std::string text = path.filename().string();
  return std::regex_match(text, found, name) ? std::stoll(found[1]) : -1;
}

/// The line's conversation; -1 where it is no line of a part.
std::int64_t conversation_of(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object() || !json.contains("conversation") || !json.contains("answers")) return -1;
  return try_get<std::int64_t>(json["conversation"]).value_or(-1);
}

/// Throws unless a value of the job is the one that it began with.
void check_same(const fs::path& folder, const std::string& name, const Json& before, const Json& now) {
  if (before == now) return;
  const auto slash = name.find('/');
  if (slash != std::string::npos)
    throw UsageError("option --{}: {} is not the one that {} was begun with; remove that folder to begin anew",
                     name.substr(0, slash), name.substr(slash + 1), folder.string());
  throw UsageError("option --{}: {} was begun with {}, not {}; remove that folder to begin anew", name, folder.string(),
                   brief(before), brief(now));
}

}  // namespace

void begin_job(const fs::path& folder, const Json& job) {
  const fs::path path = folder / "job.json", partial = folder / "job.json.partial";
  if (!is_missing(path)) {
    const Json before = read_json(path);
    for (const Json& names : {job, before})
      for (const auto& [name, unused] : names.items())
        check_same(folder, name, before.value(name, Json()), job.value(name, Json()));
    return;
  }
  write_json(partial, job);
  sync_to_disk(partial);
  fs::rename(partial, path);
  sync_to_disk(folder);
}

AnswersWriter::AnswersWriter(const fs::path& folder, std::int64_t part)
    : file_(RandomAccessFile::create(part_path(folder, part))), last_sync_(now()) {}

void AnswersWriter::append(std::int64_t conversation, const Answers& answers) {
  const std::string line = Json{{"conversation", conversation}, {"answers", answers}}.dump() + "\n";
  file_.write(bytes_, std::as_bytes(std::span(line)));
  bytes_ += std::ssize(line);
  if (now() - last_sync_ > seconds_between_syncs) sync();
}

void AnswersWriter::sync() {
  file_.sync();
  last_sync_ = now();
}

AnswersReader::AnswersReader(const fs::path& folder, std::int64_t conversations)
    : folder_(folder), places_(conversations) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::int64_t number = number_of(entry.path());
    if (number < 0) continue;
    parts_.push_back(entry.path());
    next_part_ = std::max(next_part_, number + 1);
    index(std::ssize(parts_) - 1);
  }
}

void AnswersReader::index(std::int64_t part) {
  std::ifstream file(parts_[part]);
  std::int64_t begin = 0;
  for (std::string line; std::getline(file, line) && !file.eof(); begin += std::ssize(line) + 1)
    if (const std::int64_t i = conversation_of(line); i >= 0 && i < std::ssize(places_))
      places_[i] = {part, begin, std::ssize(line)};
  if (!file.eof()) throw Error("{}: cannot be read; check its permissions and its disk", parts_[part].string());
}

Answers AnswersReader::read(std::int64_t conversation) const {
  const Place& place = places_[conversation];
  if (place.part < 0)
    throw Error(
        "{}: conversation {} has no answer in it; see that all ranks write to one disk, and start again to go on",
        folder_.string(), conversation);
  std::string line(static_cast<std::size_t>(place.bytes), '\0');
  const RandomAccessFile part(parts_[place.part], RandomAccessFile::Access::read);
  part.read(place.begin, std::as_writable_bytes(std::span(line)));
  return parse_json(line, part.path().string()).at("answers").get<Answers>();
}

}  // namespace mtp::generate
