#include "mtp/model/tensor_table.h"

#include <algorithm>
#include <regex>
#include <set>

#include "mtp/core/error.h"

namespace mtp::model {

namespace {

/// K/V projections and norms that a layer without keys and values of its own may still have in a file.
bool is_unused_kv(const hf::TextConfig& config, const std::string& name) {
  static const std::regex pattern(
      R"((?:model\.|model\.language_model\.)layers\.(\d{1,6})\.self_attn\.(?:k_proj|v_proj|k_norm|v_norm)\.weight)");
  std::smatch match;
  if (!std::regex_match(name, match, pattern)) return false;
  const std::int64_t layer = std::stol(match[1]);
  return layer < config.num_hidden_layers && config.layer(layer).shares_kv;
}

bool is_media(const std::string& name) {
  static const std::regex pattern(R"(model\.(vision_tower|vision_embedder|audio_tower|embed_vision|embed_audio)\..*)");
  return std::regex_match(name, pattern);
}

/// What older versions of Hugging Face's modules saved, and what is computed from the configuration.
bool is_derived_buffer(const std::string& name) { return name.ends_with("inv_freq") || name.ends_with("embed_scale"); }

bool is_floating(const std::string& dtype) { return dtype == "F32" || dtype == "BF16" || dtype == "F16"; }

/// Whether two tensors of a shape, of whatever floating types, have the same values.
bool same_values(const hf::TensorFiles& files, const std::string& a, const std::string& b) {
  constexpr std::int64_t block = 1 << 16;
  const std::int64_t elements = num_elements(files.info(a).shape);
  for (std::int64_t begin = 0; begin < elements; begin += block) {
    std::vector<float> of_a(std::min(block, elements - begin)), of_b(of_a.size());
    files.read(a, begin, of_a);
    files.read(b, begin, of_b);
    if (of_a != of_b) return false;
  }
  return true;
}

/// An explicit lm_head is accepted where it says what the tie says.
void check_tied_head(const hf::TensorFiles& files) {
  const std::string head = "lm_head.weight";
  const auto names = files.names();
  const auto embedding =
      std::ranges::find_if(names, [](const auto& name) { return name.ends_with(".embed_tokens.weight"); });
  if (files.info(head).shape != files.info(*embedding).shape || !same_values(files, head, *embedding))
    throw Error("{}: lm_head.weight differs from {}; an untied output projection is not supported", files.where(),
                *embedding);
}

/// Accounts for the tensors of one model.
class Accounts {
 public:
  explicit Accounts(const TableSource& source) : source_(source), files_(source.files) {}

  void take_all(std::vector<TensorInfo>& tensors) {
    for (const TensorRecord& record : source_.records)
      if (record.role != Role::carried) take(record, tensors);
    take_rest(tensors);
  }

 private:
  void take(const TensorRecord& record, std::vector<TensorInfo>& tensors) {
    if (!record.in_files) {
      tensors.push_back({source_.model + "." + record.name, record.dtype, record.shape, record.role, record.unit,
                         record.parameter, record.start});
      return;
    }
    check_shapes(files_, {record});
    const std::string& dtype = files_.info(record.name).dtype;
    if (!is_floating(dtype))
      throw Error("{}: tensor {} has type {}; F32, BF16 or F16 is needed", files_.where(), record.name, dtype);
    known_.insert(record.name);
    tensors.push_back({source_.model + "." + record.name,
                       dtype,
                       record.shape,
                       record.role,
                       record.unit,
                       record.parameter,
                       {},
                       record.is_by_expert});
  }

  /// What the model carries; whatever it needs of that, it reads itself.
  void take_rest(std::vector<TensorInfo>& tensors) {
    for (const std::string& name : files_.names()) {
      if (known_.contains(name)) continue;
      if (is_carried(name))
        tensors.push_back(
            {source_.model + "." + name, files_.info(name).dtype, files_.info(name).shape, Role::carried, "", {}});
      else if (name == "lm_head.weight")
        check_tied_head(files_);
      else
        throw Error("{}: tensor {} is unknown: the config has no place for it", files_.where(), name);
    }
  }

  bool is_carried(const std::string& name) const {
    return std::ranges::find(source_.records, name, &TensorRecord::name) != source_.records.end() ||
           is_derived_buffer(name) || is_unused_kv(source_.config, name) || (source_.model == "base" && is_media(name));
  }

  const TableSource& source_;
  const hf::TensorFiles& files_;
  std::set<std::string> known_;
};

/// A unit is trained or frozen as a whole: the frozen part of a mixed one becomes a unit of its own.
void split_mixed_units(std::vector<TensorInfo>& tensors) {
  std::set<std::string> with_trained;
  for (const TensorInfo& tensor : tensors)
    if (tensor.role == Role::trained) with_trained.insert(tensor.unit);
  for (TensorInfo& tensor : tensors)
    if (tensor.role == Role::frozen && with_trained.contains(tensor.unit)) tensor.unit += ".frozen";
}

}  // namespace

TensorTable::TensorTable(const TableSource& base, const TableSource& drafter) {
  Accounts(base).take_all(tensors_);
  Accounts(drafter).take_all(tensors_);
  split_mixed_units(tensors_);
}

const TensorInfo& TensorTable::find(const std::string& name) const {
  const auto found = std::ranges::find(tensors_, name, &TensorInfo::name);
  MTP_ASSERT(found != tensors_.end());
  return *found;
}

void TensorTable::freeze() {
  for (TensorInfo& tensor : tensors_)
    if (tensor.role == Role::trained) tensor.role = Role::frozen;
}

}  // namespace mtp::model
