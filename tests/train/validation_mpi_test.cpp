// A validation against the reference: that of every pair in tests/fixtures with validation data, before its first step.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "mtp/core/json.h"
#include "mtp/train/trainer.h"
#include "support/source_dir.h"
#include "support/temp_dir.h"

namespace mtp::train {
namespace {

namespace fs = std::filesystem;

class ValidationReference : public testing::TestWithParam<std::string> {};

/// The first line: before the first step.
Json first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return Json::parse(line);
}

TEST_P(ValidationReference, LossesAccuraciesAndAcceptedLengthAgree) {
  const fs::path fixture = mtp::test::source_dir() / "tests" / "fixtures" / GetParam();
  const mtp::test::TempDir dir;
  const fs::path run = dir.path() / "run";
  std::vector<std::string> arguments = {"mtp-train", "--config", (fixture / "settings.cfg").string()};
  const auto set = [&](const char* name, const fs::path& value) {
    arguments.insert(arguments.end(), {name, value.string()});
  };
  set("--model.base", fixture / "base");
  set("--model.drafter", fixture / "drafter");
  set("--data.train", fixture / "data.h5");
  set("--data.validation", fixture / "validation.h5");
  set("--validation.every_steps", "1");
  set("--train.max_steps", "1");
  set("--run.dir", run);
  std::vector<const char*> argv;
  for (const std::string& argument : arguments) argv.push_back(argument.c_str());
  const parallel::Communicator communicator;
  Device device(1);
  const Settings settings = parse_settings(static_cast<int>(argv.size()), argv.data()).settings;
  Trainer(Inputs::open(settings, device, communicator), device, communicator).run();

  const Json want = read_json(fixture / "validation.json"), got = first_line(run / "validation.jsonl");
  EXPECT_EQ(got.size(), want.size() + 1);
  EXPECT_EQ(got["step"], 0);
  EXPECT_NEAR(got["loss_base"], want["loss_base"], 1e-5 * want["loss_base"].get<double>());
  ASSERT_EQ(got["loss_drafter"].size(), want["loss_drafter"].size());
  for (std::size_t k = 0; k < want["loss_drafter"].size(); ++k) {
    const double loss = want["loss_drafter"][k];
    EXPECT_NEAR(got["loss_drafter"][k], loss, 1e-5 * loss) << "round " << k;
  }
  for (const char* key : {"accuracy_data", "accuracy_base", "accepted_length", "tokens_per_step"})
    EXPECT_EQ(got[key], want[key]) << key;
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ValidationReference,
                         testing::Values("e4b",                   // centroids
                                         "kv_heads_per_layer",    // none; learns from the base
                                         "k_eq_v_shared_pr2240",  // trained as pr2240
                                         "e4b_vision",            // sees images by a tower
                                         "e4b_audio",             // hears by one
                                         "unified"),              // sees and hears without any
                         [](const auto& variant) { return variant.param; });

}  // namespace
}  // namespace mtp::train
