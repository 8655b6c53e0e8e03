// The trainer against the reference: losses, first-step gradients and weights after three steps of every pair in
// tests/fixtures (made by tests/reference/make_fixtures.py).

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include "mtp/core/hdf5.h"
#include "mtp/core/json.h"
#include "mtp/hf/safetensors.h"
#include "mtp/tensor/cuda_devices.h"
#include "mtp/train/trainer.h"

namespace mtp::train {
namespace {

namespace fs = std::filesystem;

const fs::path fixtures = fs::path(MTP_SOURCE_DIR) / "tests" / "fixtures";

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(fixtures))
    if (entry.is_directory()) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<Json> read_lines(const fs::path& path) {
  std::ifstream in(path);
  std::vector<Json> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  return lines;
}

std::vector<float> read_all(const hf::TensorFiles& files, const std::string& name) {
  std::vector<float> values(num_elements(files.info(name).shape));
  files.read(name, 0, values);
  return values;
}

double norm(const std::vector<float>& v) {
  double sum = 0;
  for (const float x : v) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

std::vector<float> difference(std::vector<float> a, const std::vector<float>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

class Reference : public testing::TestWithParam<std::tuple<Device::Kind, std::string>> {
 public:
  static std::string name(const ParamType& parameters) {
    return (std::get<0>(parameters) == Device::Kind::cpu ? "cpu_" : "cuda_") + std::get<1>(parameters);
  }

 protected:
  void SetUp() override {
    if (kind == Device::Kind::cuda && find_cuda_devices().count == 0) GTEST_SKIP() << "skipped: no CUDA device";
  }

  /// Trains the fixture; all ranks share one run directory.
  void train() {
    const dist::Communicator communicator;
    work = fs::temp_directory_path() / fmt::format("mtp-reference-{}-{}", name(GetParam()), communicator.size());
    if (communicator.is_first()) fs::remove_all(work);
    communicator.barrier("an empty folder");
    const std::vector<std::string> arguments = {"mtp-train",
                                                "--config",
                                                (fixture / "settings.cfg").string(),
                                                "--model.base",
                                                (fixture / "base").string(),
                                                "--model.drafter",
                                                (fixture / "drafter").string(),
                                                "--data.train",
                                                (fixture / "data.h5").string(),
                                                "--run.dir",
                                                (work / "run").string(),
                                                "--run.dump_gradients",
                                                (work / "gradients.safetensors").string()};
    if (communicator.is_first()) fs::create_directories(work);
    std::vector<const char*> argv;
    for (const std::string& argument : arguments) argv.push_back(argument.c_str());
    const Settings settings = parse_settings(static_cast<int>(argv.size()), argv.data()).settings;
    Device device = kind == Device::Kind::cpu ? Device(1) : Device::cuda(0);
    Trainer(settings, device, communicator).run();
    is_first = communicator.is_first();
  }

  const Device::Kind kind = std::get<0>(GetParam());
  fs::path fixture = fixtures / std::get<1>(GetParam()), work;
  bool is_first = false;
};

TEST_P(Reference, LossesGradientsAndWeightsAgree) {
  train();
  if (!is_first) return;  // rank 0 has the files

  const std::vector<Json> got = read_lines(work / "run" / "metrics.jsonl"),
                          want = read_lines(fixture / "metrics.jsonl");
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t s = 0; s < want.size(); ++s) {
    // Later steps stand on weights that differ by the rounding of the steps before.
    const double tolerance = s == 0 ? 1e-5 : 1e-4;
    const auto expect_close = [&](double a, double b, const std::string& what) {
      EXPECT_NEAR(a, b, tolerance * std::abs(b) + 1e-12) << what << " of step " << s + 1;
    };
    for (const char* key : {"loss", "loss_base", "lr"}) expect_close(got[s][key], want[s][key], key);
    // A random pair's gradients are far more sensitive than its losses: later steps are seen by the final weights.
    if (s == 0) {
      EXPECT_NEAR(got[s]["grad_norm"], want[s]["grad_norm"], 1e-5 * want[s]["grad_norm"].get<double>());
    }
    EXPECT_EQ(got[s]["label_tokens"], want[s]["label_tokens"]);
    ASSERT_EQ(got[s]["loss_drafter"].size(), want[s]["loss_drafter"].size());
    for (std::size_t k = 0; k < want[s]["loss_drafter"].size(); ++k)
      expect_close(got[s]["loss_drafter"][k], want[s]["loss_drafter"][k], fmt::format("round {}", k));
  }

  const auto gradients = hf::TensorFiles::open_file(work / "gradients.safetensors");
  const auto want_gradients = hf::TensorFiles::open_file(fixture / "grads_step1.safetensors");
  EXPECT_EQ(gradients.names(), want_gradients.names());
  for (const std::string& name : want_gradients.names()) {
    const std::vector<float> g = read_all(want_gradients, name);
    const double error = norm(difference(read_all(gradients, name), g));
    EXPECT_LE(error, 1e-4 * norm(g)) << name << ": relative error " << error / norm(g);
  }

  const auto start_base = hf::TensorFiles::open(fixture / "base"),
             start_drafter = hf::TensorFiles::open(fixture / "drafter");
  const auto want_weights = hf::TensorFiles::open_file(fixture / "weights.safetensors");
  const auto state = hdf5::File::open(work / "run" / "checkpoints" / "latest" / "state.h5");
  double error = 0, moved = 0;
  for (const std::string& name : want_weights.names()) {
    const std::vector<float> w = read_all(want_weights, name);
    const bool is_base = name.starts_with("base.");
    const std::string in_file = name.substr(name.find('.') + 1);
    error += std::pow(norm(difference(state.dataset("parameters/" + name).read_all<float>(), w)), 2);
    moved += std::pow(norm(difference(w, read_all(is_base ? start_base : start_drafter, in_file))), 2);
  }
  EXPECT_LE(std::sqrt(error / moved), 2e-4);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Reference,
                         testing::Combine(testing::Values(Device::Kind::cpu, Device::Kind::cuda),
                                          testing::ValuesIn(variants())),
                         [](const auto& variant) { return Reference::name(variant.param); });

}  // namespace
}  // namespace mtp::train
