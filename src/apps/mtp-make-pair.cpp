// mtp-make-pair --preset NAME --out DIR [--seed N] [--dtype bf16] [--weights false]: writes a random base and drafter.

#include <algorithm>
#include <boost/program_options.hpp>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>

#include "mtp/core/error.h"
#include "mtp/model/make_pair.h"
#include "program.h"

namespace {

namespace po = boost::program_options;
using mtp::hf::Preset;

std::string list_presets() {
  std::string list;
  for (const Preset& preset : mtp::hf::presets()) list += "\n" + preset.name + ": " + preset.summary;
  return list;
}

const Preset& find_preset(const std::string& name) {
  const auto& all = mtp::hf::presets();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Preset& preset) { return preset.name == name; });
  if (found == all.end()) throw mtp::UsageError("option --preset: there is no preset {}; --help lists them", name);
  return *found;
}

int make_pair(int argc, char** argv) {
  std::string preset;
  std::filesystem::path out;
  std::int64_t seed = 0;
  std::string dtype = "fp32";
  bool weights = true;
  po::options_description options("mtp-make-pair: writes DIR/base and DIR/drafter as Hugging Face directories");
  options.add_options()("preset", po::value(&preset)->required(),
                        ("the pair's shape, one of" + list_presets()).c_str());
  options.add_options()("out", po::value(&out)->required(), "the directory to write; must not exist");
  options.add_options()("seed", po::value(&seed)->default_value(seed), "of the random weights, at least 0");
  options.add_options()("dtype", po::value(&dtype)->default_value(dtype), "of the weights: fp32 or bf16");
  options.add_options()("weights", po::value(&weights)->default_value(weights, "true"),
                        "true, or false: config.json alone, which is all that mtp-train --plan needs");
  if (!mtp::apps::parse(argc, argv, options)) return 0;
  if (seed < 0) throw mtp::UsageError("option --seed: {} is below 0", seed);
  if (dtype != "fp32" && dtype != "bf16") throw mtp::UsageError("option --dtype: {} is neither fp32 nor bf16", dtype);
  const auto of_weights = weights ? std::optional(static_cast<std::uint64_t>(seed)) : std::nullopt;
  mtp::model::make_pair(find_preset(preset), of_weights, out,
                        dtype == "bf16" ? mtp::ComputeType::bf16 : mtp::ComputeType::fp32);
  std::cout << out.string() << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return mtp::apps::run_program([&] { return make_pair(argc, argv); });
}
