// same-bits-inputs --out DIR …: what scripts/dev/same_bits.sh trains on: a random pair, and samples that are all
// targets.

#include <boost/program_options.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mtp/core/random.h"
#include "mtp/model/make_pair.h"
#include "program.h"
#include "support/shapes.h"
#include "support/write_data.h"

namespace {

namespace po = boost::program_options;
using namespace mtp;

/// Sliding heads of so many elements, and full ones twice as wide.
void set_head_size(Json& text, std::int64_t size) {
  text["head_dim"] = size;
  text["global_head_dim"] = 2 * size;
}

test::DataParts random_samples(std::int64_t samples, std::int64_t length, std::int64_t vocabulary) {
  constexpr std::int64_t first_id = 3;  // after pad, end and begin
  test::DataParts parts;
  parts.vocab_size = vocabulary;
  const Random random(0, Purpose::shuffle, 0);
  for (std::int64_t sample = 0; sample < samples; ++sample) {
    std::vector<std::int32_t> tokens;
    for (std::int64_t i = 0; i <= length; ++i)
      tokens.push_back(
          static_cast<std::int32_t>(first_id + random.below(static_cast<std::uint64_t>(sample * (length + 1) + i),
                                                            static_cast<std::uint64_t>(vocabulary - first_id))));
    parts.add(tokens);
  }
  return parts;
}

int write_inputs(int argc, char** argv) {
  std::string preset;
  std::filesystem::path out;
  bench::Cut cut;
  std::int64_t head_size = 0, samples = 0, length = 0;
  po::options_description options("same-bits-inputs: writes DIR/base, DIR/drafter and DIR/data.h5");
  options.add_options()("preset", po::value(&preset)->required(), "the pair's shape, of mtp-make-pair or 17m");
  options.add_options()("layer-groups", po::value(&cut.layer_groups)->default_value(0), "of the base; 0: all");
  options.add_options()("vocabulary", po::value(&cut.vocabulary)->required(), "tokens");
  options.add_options()("head-size", po::value(&head_size)->default_value(0), "of sliding layers; 0: the preset's");
  options.add_options()("samples", po::value(&samples)->required(), "sequences");
  options.add_options()("length", po::value(&length)->required(), "positions of each");
  options.add_options()("out", po::value(&out)->required(), "the directory to write; must not exist");
  if (!apps::parse(argc, argv, options)) return 0;
  hf::Preset shape = bench::find_shape(preset, cut);
  if (head_size > 0)
    for (Json* const config : {&shape.base, &shape.drafter}) set_head_size((*config)["text_config"], head_size);
  model::make_pair(shape, 0, out);
  test::write_data(out / "data.h5", random_samples(samples, length, cut.vocabulary));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return mtp::apps::run_program([&] { return write_inputs(argc, argv); });
}
