#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "mtp/core/settings.h"
#include "mtp/graph/linear.h"
#include "mtp/graph/parameter.h"
#include "mtp/hf/safetensors.h"

namespace mtp::model {

enum class Role {
  trained,
  frozen,   // a parameter that is used, and never changes
  carried,  // not a parameter of this program: goes from the source to the export as it is
};

/// How a tensor of a random pair begins, or of an adapter.
struct Start {
  enum class Kind { constant, normal, uniform, permutation } kind = Kind::constant;
  float value = 1;  // the constant, the normal distribution's deviation or the uniform one's bound; their means are 0
};

/// One tensor of a model, as the part that owns it declares it. Everything else that is known of a tensor (its values,
/// its shard, its moments, its place in checkpoints and exports) is found through this record.
struct TensorRecord {
  std::string name;  // in the model's file
  Shape shape;
  Start start;
  Role role = Role::trained;
  std::string unit = {};      // parameters that are gathered together; empty: no parameter
  Parameter parameter = {};   // what the part computes with, once the units are made
  std::string dtype = "F32";  // of a random pair
  /// False: released files hold it, but nothing reads it. It may be missing, and have any shape and type.
  bool is_used = true;
  /// True: its first dimension counts experts, which ranks may divide among them.
  bool is_by_expert = false;
  /// False: an adapter's, which the model's files do not hold.
  bool in_files = true;
};

/// A tensor that its part reads by itself, once, from the model's files.
struct Buffer {
  std::string name;
  Shape shape;

  /// Its values in fp32. Throws Error where the files lack it or have it in another shape.
  std::vector<float> read(const hf::TensorFiles& files) const;
};

/// Where a part of a model declares its tensors: a model's list of them, the prefix of the part's names, and the unit
/// that its parameters belong to.
class Tensors {
 public:
  Tensors(std::vector<TensorRecord>& records, std::string prefix) : records_(records), prefix_(std::move(prefix)) {}

  /// For a part within this one.
  Tensors below(std::string_view prefix) const;
  /// For parameters of another unit.
  Tensors in_unit(std::string unit, bool trained) const;
  /// For layers that may have adapters, which are trained. `lora`: none, or which layers; it must outlive the tensors.
  Tensors with_adapters(const Settings::Lora* lora) const;
  /// For parameters that are gathered apart from those of this unit: in one whose name has `part` after it.
  Tensors in_own_unit(std::string_view part) const;
  /// Of what declares nothing but what released files hold and nothing reads.
  Tensors unused() const;

  // Parameters; ".weight" is added to their names but where it says otherwise.

  /// All elements are `start` at first: a norm's scale.
  Parameter vector(std::string_view name, std::int64_t width, float start = 1) const;
  /// The norm of a head's queries or keys. Attention has no 1/√d, so both norms have it between them at first: larger
  /// ones would make it look at one position only.
  Parameter head_norm(std::string_view name, std::int64_t head_dim) const;
  /// Added to every row, at first nothing. ".bias" is added to its name, which is that of its matrix or norm.
  Parameter bias(std::string_view name, std::int64_t width) const;
  /// Gives outputs of the size of its inputs.   [out, in]
  Parameter matrix(std::string_view name, std::int64_t out, std::int64_t in) const;
  /// The same as a layer, with an adapter where there are to be some.
  Linear linear(std::string_view name, std::int64_t out, std::int64_t in) const;
  /// A convolution's.   [out, in, extents of its kernel…]
  Parameter convolution(std::string_view name, Shape shape) const;
  /// Rows that are looked up and then scaled by √width. `packed`: so many side by side.   [rows, packed · width]
  Parameter table(std::string_view name, std::int64_t rows, std::int64_t width, std::int64_t packed = 1) const;
  /// The same for each of several experts; no ".weight" is added.   [experts, out, in]
  Parameter matrices(std::string_view name, std::int64_t experts, std::int64_t out, std::int64_t in) const;
  /// Gives logits of order one of rows that are as long as a vector of one 1.   [out, in]
  Parameter logits(std::string_view name, std::int64_t out, std::int64_t in) const;
  /// Factors that are `start` at first; no ".weight" is added.   [width]
  Parameter factors(std::string_view name, std::int64_t width, float start = 1) const;
  /// Tables of positions, one for each dimension of a place, whose rows are the last dimension of the shape; no
  /// ".weight" is added.
  Parameter positions(std::string_view name, Shape shape) const;

  Buffer buffer(std::string_view name, Shape shape, Start start, std::string dtype = "F32") const;

  const std::string& unit() const { return unit_; }
  /// The parameters below this prefix that were declared so far.
  std::vector<Parameter> declared() const;

 private:
  /// `name`: whole, below the prefix.
  Parameter parameter(const std::string& name, Shape shape, Start start) const;
  Parameter adapter(const std::string& name, Shape shape, Start start) const;

  std::vector<TensorRecord>& records_;
  std::string prefix_, unit_;
  Role role_ = Role::trained;
  const Settings::Lora* lora_ = nullptr;
};

/// The tensors of a model as a new file has them: parameters first, then buffers, and what nothing uses at the end.
std::vector<TensorRecord> in_file_order(std::vector<TensorRecord> records);
/// What a safetensors file says of them.
std::vector<hf::TensorEntry> entries(const std::vector<TensorRecord>& records);

/// Throws Error that names a needed tensor which is missing or has another shape, with both shapes.
void check_shapes(const hf::TensorFiles& files, const std::vector<TensorRecord>& needed);

}  // namespace mtp::model
