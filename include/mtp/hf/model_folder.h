#pragma once

#include <filesystem>

namespace mtp::hf {

/// Throws Error that says what to do where a path is no folder with config.json and safetensors files, but something
/// that is easily taken for one: a name on the Hub, a single file, an adapter, weights in another format.
void check_model_folder(const std::filesystem::path& directory);

}  // namespace mtp::hf
