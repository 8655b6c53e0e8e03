#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mtp/core/json.h"
#include "mtp/hf/safetensors.h"

namespace mtp::hf {

/// One of the safetensors files of a model.
struct ModelFile {
  std::string name;  // "model.safetensors", or "model-00001-of-00003.safetensors"
  std::vector<TensorEntry> tensors;
};

/// Divides a model's tensors over files as Hugging Face does: in their order, to at most `max_bytes` of data a file; a
/// larger tensor has a file of its own. Within a file the larger element types come first, so that every tensor begins
/// on a multiple of its element's size, and then the names in order.
std::vector<ModelFile> split_into_files(const std::vector<TensorEntry>& tensors, std::uint64_t max_bytes);

/// model.safetensors.index.json: which file has which tensor. Only a model of several files has one.
Json index_of(const std::vector<ModelFile>& files);

/// Sets the element type that Hugging Face loads a model in ("float32", "bfloat16"): `dtype` of a config.json and,
/// under that or its old name torch_dtype, in each of the nested configurations that has one.
void set_dtype(Json& config, const std::string& dtype);

}  // namespace mtp::hf
