#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "mtp/decode/decoder.h"
#include "mtp/model/make_pair.h"
#include "mtp/parallel/sharded_unit.h"
#include "support/temp_dir.h"

namespace mtp::decode::test {

/// So few tokens that a random drafter is right now and then.
inline constexpr std::int64_t vocabulary = 4;

/// The preset with so many tokens.
inline hf::Preset with_small_vocabulary(const std::string& name) {
  const auto& all = hf::presets();
  hf::Preset preset = *std::find_if(all.begin(), all.end(), [&](const hf::Preset& p) { return p.name == name; });
  for (Json* config : {&preset.base, &preset.drafter})
    for (const char* key : {"vocab_size", "vocab_size_per_layer_input"})
      if ((*config)["text_config"].value(key, 0) > 0) (*config)["text_config"][key] = vocabulary;
  if (preset.drafter["use_ordered_embeddings"]) {
    preset.drafter["num_centroids"] = 2;
    preset.drafter["centroid_intermediate_top_k"] = 1;
  }
  return preset;
}

/// A random pair, loaded.
class LoadedPair {
 public:
  struct Place {
    Device::Kind kind = Device::Kind::cpu;
    int number = 1;  // of threads, or of the GPU
    DType dtype = DType::f32;
  };

  explicit LoadedPair(const hf::Preset& preset, std::uint64_t seed = 0) : LoadedPair(preset, seed, Place()) {}
  LoadedPair(const hf::Preset& preset, std::uint64_t seed, const Place& place)
      : device(device_of(place)),
        sharding{.device = device, .communicator = communicator_, .compute_dtype = place.dtype},
        pair(make(preset, seed)),
        parameters(frozen(pair).table, sharding, place.dtype) {
    parameters.load(pair, device);
  }

  Decoder decoder(Options options) { return Decoder(device, pair, parameters, std::move(options)); }

 private:
  static Device device_of(const Place& place) {
    if (place.kind == Device::Kind::cpu) return Device(place.number);
    return Device::cuda(place.number);
  }
  model::Pair make(const hf::Preset& preset, std::uint64_t seed) {
    model::make_pair(preset, seed, folder_.path() / "pair");
    Settings settings;
    settings.model = {.base = folder_.path() / "pair" / "base", .drafter = folder_.path() / "pair" / "drafter"};
    return model::Pair(settings);
  }
  static model::Pair& frozen(model::Pair& pair) {
    pair.table.freeze();
    return pair;
  }

  mtp::test::TempDir folder_;
  parallel::Communicator communicator_;

 public:
  Device device;
  parallel::Sharding sharding;
  model::Pair pair;
  model::Parameters parameters;
};

inline std::vector<std::int64_t> random_tokens(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(count));
  for (std::int64_t& token : tokens) token = static_cast<std::int64_t>(random() % vocabulary);
  return tokens;
}

}  // namespace mtp::decode::test
