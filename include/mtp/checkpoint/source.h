#pragma once

#include <filesystem>
#include <vector>

#include "mtp/checkpoint/manifest.h"
#include "mtp/checkpoint/state.h"
#include "mtp/model/pair.h"

namespace mtp::checkpoint {

// What a checkpoint keeps of the source pair, in source/{base,drafter}: the files of a Hugging Face directory beside
// its weights, its tensors' names and types (tensors.json), and those that are not trained, byte for byte
// (carried.safetensors). All checkpoints of a run share these files.

/// Keeps that in RUN/source, and returns what a checkpoint's manifest says of it. Done once a run; checkpoints share
/// the files.
Manifest store_source(const model::Pair& pair, const std::filesystem::path& run_dir);
/// The same with the source of a verified checkpoint, from which the run goes on.
Manifest share_source(const State& state, const std::filesystem::path& run_dir);

/// What a model needs beside its weights, where its directory has it: configuration, tokenizer, chat templates,
/// processor. Relative to the directory, in order.
std::vector<std::filesystem::path> side_files(const std::filesystem::path& directory);

/// A tensor that was in the source.
struct SourceTensor {
  hf::TensorEntry entry;  // under its name in the model's own file
  bool carried = false;   // no parameter of the program: never converted
};

/// The tensors of a model that a run does not train.
hf::TensorFiles open_untrained(const std::filesystem::path& model_source);

/// The tensors of tensors.json, in the order of their names.
std::vector<SourceTensor> read_source_tensors(const std::filesystem::path& model_source);

/// The pair, without its parameters' values. `source`: a folder source/.
model::Pair open_source(const Settings& settings, model::Parts parts, const std::filesystem::path& source);

/// The same files in folder `to`, under a second name; copied where the file system has no hard links.
void link_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace mtp::checkpoint
