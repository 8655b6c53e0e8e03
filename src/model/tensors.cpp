#include "mtp/model/tensors.h"

#include <algorithm>
#include <cmath>

#include "mtp/core/error.h"

namespace mtp::model {

Tensors Tensors::below(std::string_view prefix) const {
  Tensors part = *this;
  part.prefix_ += prefix;
  return part;
}

Tensors Tensors::in_unit(std::string unit, bool trained) const {
  Tensors part = *this;
  part.unit_ = std::move(unit);
  part.role_ = trained ? Role::trained : Role::frozen;
  return part;
}

Tensors Tensors::with_adapters(const Settings::Lora* lora) const {
  Tensors part = *this;
  part.lora_ = lora;
  return part;
}

Tensors Tensors::in_own_unit(std::string_view part) const {
  Tensors apart = *this;
  apart.unit_ += "." + std::string(part);
  return apart;
}

Tensors Tensors::unused() const {
  Tensors part = *this;
  part.unit_.clear();
  part.role_ = Role::carried;
  return part;
}

namespace {

std::string weight(std::string_view name) { return std::string(name) + ".weight"; }

}  // namespace

Parameter Tensors::parameter(const std::string& name, Shape shape, Start start) const {
  const bool is_used = role_ != Role::carried;
  const Parameter parameter(shape);
  records_.push_back({.name = prefix_ + name,
                      .shape = std::move(shape),
                      .start = start,
                      .role = role_,
                      .unit = unit_,
                      .parameter = is_used ? parameter : Parameter(),
                      .is_used = is_used});
  return parameter;
}

Parameter Tensors::vector(std::string_view name, std::int64_t width, float start) const {
  return parameter(weight(name), {width}, {Start::Kind::constant, start});
}

Parameter Tensors::head_norm(std::string_view name, std::int64_t head_dim) const {
  return vector(name, head_dim, 1.0f / std::sqrt(std::sqrt(static_cast<float>(head_dim))));
}

Parameter Tensors::bias(std::string_view name, std::int64_t width) const {
  return parameter(std::string(name) + ".bias", {width}, {Start::Kind::constant, 0});
}

Parameter Tensors::matrix(std::string_view name, std::int64_t out, std::int64_t in) const {
  return parameter(weight(name), {out, in}, {Start::Kind::normal, 1.0f / std::sqrt(static_cast<float>(in))});
}

Parameter Tensors::convolution(std::string_view name, Shape shape) const {
  const auto inputs = static_cast<float>(num_elements(shape) / shape[0]);
  return parameter(weight(name), std::move(shape), {Start::Kind::normal, 1.0f / std::sqrt(inputs)});
}

Parameter Tensors::adapter(const std::string& name, Shape shape, Start start) const {
  Tensors own = *this;
  own.role_ = Role::trained;
  const Parameter parameter = own.parameter(weight(name), std::move(shape), start);
  records_.back().in_files = false;
  return parameter;
}

Linear Tensors::linear(std::string_view name, std::int64_t out, std::int64_t in) const {
  Linear layer = matrix(name, out, in);
  if (lora_ == nullptr || std::ranges::count(lora_->targets, name) == 0) return layer;
  // As PEFT begins: a by Kaiming's uniform distribution with a slope of √5, b zero.
  const float bound = 1.0f / std::sqrt(static_cast<float>(in));
  const std::string layer_name(name);
  layer.adapter = {.a = adapter(layer_name + ".lora_A", {lora_->rank, in}, {Start::Kind::uniform, bound}),
                   .b = adapter(layer_name + ".lora_B", {out, lora_->rank}, {Start::Kind::constant, 0}),
                   .scale = static_cast<float>(lora_->scale())};
  return layer;
}

Parameter Tensors::table(std::string_view name, std::int64_t rows, std::int64_t width, std::int64_t packed) const {
  return parameter(weight(name), {rows, packed * width},
                   {Start::Kind::normal, 1.0f / std::sqrt(static_cast<float>(width))});
}

Parameter Tensors::matrices(std::string_view name, std::int64_t experts, std::int64_t out, std::int64_t in) const {
  const Parameter all =
      parameter(std::string(name), {experts, out, in}, {Start::Kind::normal, 1.0f / std::sqrt(static_cast<float>(in))});
  records_.back().is_by_expert = true;
  return all;
}

Parameter Tensors::logits(std::string_view name, std::int64_t out, std::int64_t in) const {
  return parameter(weight(name), {out, in}, {Start::Kind::normal, 1});
}

Parameter Tensors::factors(std::string_view name, std::int64_t width, float start) const {
  return parameter(std::string(name), {width}, {Start::Kind::constant, start});
}

Parameter Tensors::positions(std::string_view name, Shape shape) const {
  return parameter(std::string(name), std::move(shape), {Start::Kind::normal, 0.02f});
}

Buffer Tensors::buffer(std::string_view name, Shape shape, Start start, std::string dtype) const {
  const Buffer buffer{prefix_ + std::string(name), shape};
  records_.push_back({.name = buffer.name,
                      .shape = std::move(shape),
                      .start = start,
                      .role = Role::carried,
                      .dtype = std::move(dtype)});
  return buffer;
}

std::vector<Parameter> Tensors::declared() const {
  std::vector<Parameter> found;
  for (const TensorRecord& record : records_)
    if (!record.unit.empty() && record.name.starts_with(prefix_)) found.push_back(record.parameter);
  return found;
}

std::vector<TensorRecord> in_file_order(std::vector<TensorRecord> records) {
  std::ranges::stable_sort(records, {}, [](const TensorRecord& record) {
    return !record.is_used ? 2 : record.unit.empty() ? 1 : 0;
  });
  return records;
}

std::vector<hf::TensorEntry> entries(const std::vector<TensorRecord>& records) {
  std::vector<hf::TensorEntry> all;
  for (const TensorRecord& record : records) all.push_back({record.name, record.dtype, record.shape});
  return all;
}

namespace {

void check_shape(const hf::TensorFiles& files, const std::string& name, const Shape& needed) {
  if (const Shape& found = files.info(name).shape; found != needed)
    throw Error("{}: tensor {} has shape {}, the config needs {}", files.where(), name, mtp::to_string(found),
                mtp::to_string(needed));
}

}  // namespace

void check_shapes(const hf::TensorFiles& files, const std::vector<TensorRecord>& needed) {
  for (const TensorRecord& tensor : needed)
    if (tensor.is_used) check_shape(files, tensor.name, tensor.shape);
}

std::vector<float> Buffer::read(const hf::TensorFiles& files) const {
  check_shape(files, name, shape);
  std::vector<float> values(static_cast<std::size_t>(num_elements(shape)));
  files.read(name, 0, values);
  return values;
}

}  // namespace mtp::model
