#include "mtp/data/media_sets.h"

#include <algorithm>

#include "mtp/core/error.h"

namespace mtp::data {
namespace {

// Where things begin, from 0 on and never backwards; the last is how many there are.
std::vector<std::int64_t> read_begins(const TokenLists& lists, const std::string& name) {
  auto begins = open_list(lists.file(), lists.path(), name).read_all<std::int64_t>();
  const std::string where = lists.path().string();
  if (begins.size() < 2)
    throw Error("{}: dataset {} has {} elements, at least 2 are needed", where, name, begins.size());
  if (begins.front() != 0) throw Error("{}: {} starts at {}, not at 0", where, name, begins.front());
  if (const auto back = std::ranges::is_sorted_until(begins); back != begins.end())
    throw Error("{}: {} goes back from {} to {} at element {}", where, name, back[-1], *back, back - begins.begin());
  return begins;
}

}  // namespace

MediaSets::MediaSets(const TokenLists& lists, Kind kind)
    : kind_(std::move(kind)),
      where_(lists.path().string()),
      item_(lists.kind().item),
      token_id_(lists.file().attribute<std::int64_t>(kind_.name + "_token_id")),
      offsets_(read_begins(lists, kind_.name + "_offsets")),
      lists_(read_begins(lists, "sample_" + kind_.name + "s")) {
  if (token_id_ < 0 || token_id_ >= lists.vocab_size())
    throw Error("{}: attribute {}_token_id is {}, outside the vocabulary of {}", where_, kind_.name, token_id_,
                lists.vocab_size());
  if (std::ssize(lists_) != lists.count() + 1)
    throw Error("{}: sample_{}s has {} elements, {} {}s need {}", where_, kind_.name, lists_.size(), lists.count(),
                item_, lists.count() + 1);
  if (lists_.back() != count())
    throw Error("{}: sample_{}s ends at {}, the file has {} {}", where_, kind_.name, lists_.back(), count(),
                kind_.many);
}

hdf5::Dataset MediaSets::open_table(const TokenLists& lists, const std::string& name, std::int64_t rows) {
  hdf5::Dataset dataset = lists.file().dataset(name);
  if (dataset.shape().size() != 2 || dataset.shape()[0] != rows || dataset.shape()[1] < 1)
    throw Error("{}: dataset {} must have two dimensions and {} rows", lists.path().string(), name, rows);
  dataset.check_is_stored();
  return dataset;
}

std::int64_t MediaSets::shown(std::int64_t i, std::span<const std::int32_t> inputs, std::optional<std::int32_t> label,
                              bool is_cut) const {
  const std::int64_t tokens = std::ranges::count(inputs, token_id_), of_list = first(i + 1) - first(i);
  std::int64_t shown = 0, soft = 0;
  while (shown < of_list && soft < tokens) soft += soft_tokens(first(i) + shown++);
  if (is_cut && (soft > tokens || (label && *label == token_id_)))
    throw Error("{}: {} {}: data.max_length cuts through {}, cut it elsewhere", where_, item_, i, kind_.one);
  if (soft != tokens || (label && *label == token_id_) || (!is_cut && shown < of_list))
    throw Error("{}: {} {}: its {} tokens are not those of its {} {}; prepare the file anew", where_, item_, i,
                kind_.name, of_list, kind_.many);
  return shown;
}

void MediaSets::check_targets(std::int64_t i, std::span<const std::int32_t> tokens,
                              std::span<const std::uint8_t> is_target) const {
  for (std::size_t t = 0; t < tokens.size(); ++t)
    if (is_target[t] != 0 && tokens[t] == token_id_)
      throw Error("{}: {} {}: token {} is {}'s and a target, which none of these can be", where_, item_, i, t,
                  kind_.one);
}

void MediaSets::append_rows(std::span<const std::int32_t> inputs, std::int64_t row,
                            std::vector<std::int64_t>& rows) const {
  for (std::size_t t = 0; t < inputs.size(); ++t)
    if (inputs[t] == token_id_) rows.push_back(row + static_cast<std::int64_t>(t));
}

}  // namespace mtp::data
