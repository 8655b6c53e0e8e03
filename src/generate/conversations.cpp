#include "mtp/generate/conversations.h"

#include <utility>

#include "mtp/core/error.h"

namespace mtp::generate {

namespace fs = std::filesystem;

Conversations::Conversations(File opened, Turns turns) : file_(std::move(opened)), turns_(turns) {
  const auto has_media = [](const auto& file) { return file.images() || file.audio(); };
  if (std::visit(has_media, file_))
    throw Error("{}: has images or sound; only answers to text are generated yet",
                std::visit([](const auto& file) { return file.path().string(); }, file_));
}

Conversations Conversations::of_prompts(const fs::path& path) { return {data::PromptsFile(path), Turns::all}; }

Conversations Conversations::of_data(const fs::path& path, Turns turns) { return {data::DataFile(path), turns}; }

std::int64_t Conversations::count() const {
  if (const auto* prompts = std::get_if<data::PromptsFile>(&file_)) return prompts->prompts();
  return std::get<data::DataFile>(file_).samples();
}

data::DataWriter::Header Conversations::header() const {
  const auto of = [](const auto& file) {
    return data::DataWriter::Header{file.vocab_size(), file.pad_token_id(), file.tokenizer()};
  };
  return std::visit(of, file_);
}

void Conversations::check_base(const fs::path& directory, std::int64_t vocab_size) const {
  std::visit([&](const auto& file) { file.check_base(directory, vocab_size); }, file_);
}

std::vector<Conversations::Ids> Conversations::contexts(std::int64_t i, std::span<const std::int64_t> refused) const {
  if (const auto* prompts = std::get_if<data::PromptsFile>(&file_)) return {prompts->prompt(i, refused)};
  return contexts_of(std::get<data::DataFile>(file_).sample(i, 0, refused), turns_);
}

std::vector<Conversations::Ids> contexts_of(const data::Sample& sample, Turns turns) {
  std::vector<Conversations::Ids> contexts;
  Conversations::Ids before;  // the answer, or before all of it where only the last one is new
  for (std::size_t t = 0; t < sample.tokens.size(); ++t) {
    const bool begins = sample.is_target[t] != 0 && (t == 0 || sample.is_target[t - 1] == 0);
    if (begins && turns == Turns::last) contexts = {before};
    if (begins && turns == Turns::all) contexts.push_back(std::exchange(before, {}));
    if (sample.is_target[t] == 0 || turns == Turns::last) before.push_back(sample.tokens[t]);
  }
  if (!contexts.empty() && contexts.front().empty()) contexts.clear();
  return contexts;
}

}  // namespace mtp::generate
