#include "mtp/data/token_lists.h"

#include <algorithm>

#include "mtp/core/checksum.h"
#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp::data {
namespace {

hdf5::File open_checked(const std::filesystem::path& path) {
  hdf5::File file = hdf5::File::open(path);
  const std::string where = path.string();
  if (!file.has_attribute("format") || file.attribute<std::string>("format") != "mtp-data")
    throw Error("{} is not a data file: its attribute format must be mtp-data", where);
  if (const auto version = file.attribute<std::int64_t>("version"); version != 1)
    throw Error("{} is a data file of version {}, this program reads version 1", where, version);
  return file;
}

std::vector<std::int64_t> read_offsets(const hdf5::File& file, const std::filesystem::path& path,
                                       const TokenLists::Kind& kind) {
  const std::string where = path.string();
  const auto& [item, unused, shortest] = kind;
  auto offsets = open_list(file, path, "offsets").read_all<std::int64_t>();
  if (offsets.size() < 2) throw Error("{} has no {}s", where, item);
  if (offsets.front() != 0) throw Error("{}: offsets start at {}, not at 0", where, offsets.front());
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i)
    if (offsets[i + 1] < offsets[i] || offsets[i + 1] - offsets[i] < shortest)
      throw Error("{}: {} {} lies at {} to {}: a {} must have at least {} token{}", where, item, i, offsets[i],
                  offsets[i + 1], item, shortest, shortest == 1 ? "" : "s");
  return offsets;
}

}  // namespace

hdf5::Dataset open_list(const hdf5::File& file, const std::filesystem::path& path, const std::string& name,
                        std::optional<std::int64_t> elements) {
  hdf5::Dataset dataset = file.dataset(name);
  if (dataset.shape().size() != 1) throw Error("{}: dataset {} must have one dimension", path.string(), name);
  dataset.check_is_stored();
  if (elements && dataset.elements() != *elements)
    throw Error("{}: dataset {} has {} elements, offsets end at {}", path.string(), name, dataset.elements(),
                *elements);
  return dataset;
}

TokenLists::TokenLists(const std::filesystem::path& path, Kind kind)
    : path_(path),
      kind_(std::move(kind)),
      file_(open_checked(path)),
      vocab_size_(file_.attribute<std::int64_t>("vocab_size")),
      pad_token_id_(file_.attribute<std::int64_t>("pad_token_id")),
      offsets_(read_offsets(file_, path, kind_)),
      tokens_(open_list(file_, path, "tokens", total())) {
  if (file_.has_attribute("tokenizer")) tokenizer_ = file_.attribute<std::string>("tokenizer");
  if (vocab_size_ < 1) throw Error("{}: attribute vocab_size is {}, it must be at least 1", path.string(), vocab_size_);
  if (pad_token_id_ < 0 || pad_token_id_ >= vocab_size_)
    throw Error("{}: attribute pad_token_id is {}, outside the vocabulary of {}", path.string(), pad_token_id_,
                vocab_size_);
}

void TokenLists::check_base(const std::filesystem::path& directory, std::int64_t vocab_size) const {
  if (vocab_size_ != vocab_size)
    throw Error("{}: made for a vocabulary of {} tokens, the base has {}; prepare it with the base's tokenizer",
                path_.string(), vocab_size_, vocab_size);
  check_tokenizer(directory);
}

void TokenLists::check_tokenizer(const std::filesystem::path& directory) const {
  const std::filesystem::path tokenizer = directory / "tokenizer.json";
  if (tokenizer_ && !is_missing(tokenizer) && sha256_of_file(tokenizer) != *tokenizer_)
    throw Error("{}: made with another tokenizer than {}; prepare it with the base's tokenizer", path_.string(),
                tokenizer.string());
}

void TokenLists::read(std::int64_t i, std::span<std::int32_t> tokens, std::span<const std::int64_t> refused) const {
  MTP_ASSERT(i >= 0 && i < count() && static_cast<std::int64_t>(tokens.size()) <= length(i));
  tokens_.read(begin(i), tokens);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t] < 0 || tokens[t] >= vocab_size_)
      throw Error("{}: {} {}: token {} is {}, outside the vocabulary of {}", path_.string(), kind_.item, i, t,
                  tokens[t], vocab_size_);
    if (std::ranges::count(refused, tokens[t]) > 0)
      throw Error("{}: {} {}: token {} is {}, an image, video or audio token, which cannot be {} yet", path_.string(),
                  kind_.item, i, t, tokens[t], kind_.use);
  }
}

}  // namespace mtp::data
