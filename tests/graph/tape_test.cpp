#include "mtp/graph/tape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>

#include "mtp/tensor/profile.h"

namespace mtp {
namespace {

/// Parameters that live in host memory and record what the graph does with them.
class Weights final : public ParameterGroup {
 public:
  Weights(Device& device, Shape shape, float start, bool trained = true) : device_(device), trained_(trained) {
    value_ = device.empty(shape);
    for (std::int64_t i = 0; i < value_.elements(); ++i) value_.f32()[i] = std::sin(start + static_cast<float>(i));
    gradient_ = device.zeros(shape);
  }
  std::string name() const override { return "weights"; }
  bool trained() const override { return trained_; }
  void acquire() override { ++users_, log += "a"; }
  void release() override { --users_, log += "r"; }
  void reduce_gradients() override { log += "g"; }
  Tensor value(std::size_t) const override {
    EXPECT_GT(users_, 0) << "used outside its scope";
    return value_;
  }
  Tensor gradient(std::size_t, std::size_t) override { return gradient_; }
  Tensor rows(const Tokens&) override { return {}; }
  void add_row_gradients(const Tokens&, const Tensor&, float) override {}
  Parameter parameter() { return {*this, 0, value_.shape()}; }

  std::string log;
  Tensor value_, gradient_;

 private:
  Device& device_;
  bool trained_;
  int users_ = 0;
};

Tensor sequence(Device& device, Shape shape, float start) {
  Tensor x = device.empty(std::move(shape));
  for (std::int64_t i = 0; i < x.elements(); ++i) x.f32()[i] = std::cos(start + 1.7f * static_cast<float>(i));
  return x;
}

/// A small model of two layers, the second of which also uses the first one's "key", as a drafter does, and has an
/// adapter.
struct TwoLayers {
  explicit TwoLayers(Device& d, bool trained = true)
      : device(d),
        first(d, {6, 6}, 1, trained),
        second(d, {6, 6}, 2, trained),
        adapter_a(d, {2, 6}, 4, trained),
        adapter_b(d, {6, 2}, 5, trained),
        head(d, {11, 6}, 3) {}

  double run(Tape::Options options) {
    for (Weights* w : {&first, &second, &adapter_a, &adapter_b, &head}) {
      std::memset(w->gradient_.f32(), 0, sizeof(float) * w->gradient_.elements());
      w->log.clear();
    }
    const ops::Sequences sequences({4});
    Tape tape(device, sequences, options);
    const Tensor labels = device.from_host(std::vector<std::int64_t>{3, ops::no_label, 10, 0});
    double loss = 0;
    {
      const auto head_scope = tape.scope(head, Graph::Use::forward_values);
      const Value x = tape.constant(sequence(device, {4, 6}, 0));
      std::vector<Value> y{x, x};
      Linear adapted = second.parameter();
      adapted.adapter = {.a = adapter_a.parameter(), .b = adapter_b.parameter(), .scale = 1.5f};
      const auto scope_a = tape.scope(adapter_a), scope_b = tape.scope(adapter_b);
      for (const Linear& w : {Linear(first.parameter()), adapted}) {
        const auto scope = tape.scope(w.weight.group());
        y = tape.segment(y, [w](Graph& graph, std::span<const Value> in) {
          auto& g = static_cast<Tape&>(graph);
          const Value h = g.rms_norm(g.add(g.linear(in[0], w), in[1]), 1e-6f);
          return std::vector<Value>{g.add(in[0], g.gated_gelu(h, in[1])), g.add(h, h)};
        });
      }
      const Value z = tape.add(tape.scale(y[0], 0.5f), y[1]);
      const Tensor sum = tape.cross_entropy({.soft_cap = 0, .gradient_scale = 1}, z, head.parameter(), labels);
      device.to_host(sum, {&loss, 1});
    }
    tape.backward();
    return loss;
  }

  std::vector<float> gradients() const {
    std::vector<float> all;
    for (const Weights* w : {&first, &second, &adapter_a, &adapter_b, &head})
      all.insert(all.end(), w->gradient_.f32(), w->gradient_.f32() + w->gradient_.elements());
    return all;
  }

  Device& device;
  Weights first, second, adapter_a, adapter_b, head;
};

TEST(Tape, GradientsAgreeWithFiniteDifferences) {
  Device device(1);
  TwoLayers model(device);
  model.run({});
  const std::vector<float> gradients = model.gradients();
  std::size_t at = 0;
  for (Weights* w : {&model.first, &model.second, &model.adapter_a, &model.adapter_b, &model.head})
    for (std::int64_t i = 0; i < w->value_.elements(); ++i, ++at) {
      const float before = w->value_.f32()[i], step = 1e-2f;
      w->value_.f32()[i] = before + step;
      const double up = model.run({});
      w->value_.f32()[i] = before - step;
      const double down = model.run({});
      w->value_.f32()[i] = before;
      // fp32 losses of about 10 over a step of 2e-2: 1e-6 / 2e-2 of rounding, and the third derivative's 1e-4.
      EXPECT_NEAR(gradients[at], (up - down) / (2 * step), 2e-3 + 2e-3 * std::abs(gradients[at])) << "weight " << at;
    }
}

TEST(Tape, RecomputedSegmentsGiveTheSameBits) {
  Device device(2);
  TwoLayers model(device);
  const double kept_loss = model.run({.recording = true, .recompute = false});
  const std::vector<float> kept = model.gradients();
  const double again_loss = model.run({.recording = true, .recompute = true});
  const std::vector<float> again = model.gradients();
  EXPECT_EQ(kept_loss, again_loss);
  EXPECT_EQ(std::memcmp(kept.data(), again.data(), kept.size() * sizeof(float)), 0);
}

TEST(Tape, RecomputingKeepsLessInMemory) {
  std::int64_t peak[2];
  for (const bool recompute : {false, true}) {
    Device device(1);
    Weights w(device, {64, 64}, 0);
    const ops::Sequences sequences({512});
    Tape tape(device, sequences, {.recording = true, .recompute = recompute});
    Value x = tape.constant(sequence(device, {512, 64}, 0));
    {
      const auto scope = tape.scope(w);
      for (int layer = 0; layer < 8; ++layer)
        x = tape.segment({x}, [&w](Graph& graph, std::span<const Value> in) {
          auto& g = static_cast<Tape&>(graph);
          const Value h = g.linear(g.linear(g.linear(in[0], w.parameter()), w.parameter()), w.parameter());
          return std::vector<Value>{g.rms_norm(h, 1e-6f)};
        })[0];
    }
    tape.backward();
    peak[recompute] = device.memory_peak();
  }
  EXPECT_LT(peak[1], peak[0] / 2);
}

TEST(Tape, ASegmentIsAPartOfTheProfileForwardAndBackward) {
  for (const bool recompute : {false, true}) {
    Device device(1);
    Weights w(device, {6, 6}, 0);
    device.profile().start();
    {
      const ops::Sequences sequences({4});
      Tape tape(device, sequences, {.recording = true, .recompute = recompute});
      {
        const auto scope = tape.scope(w);
        Value x = tape.linear(tape.constant(sequence(device, {4, 6}, 0)), w.parameter());
        x = tape.segment(
            {x},
            [](Graph& g, std::span<const Value> in) {
              return std::vector<Value>{static_cast<Tape&>(g).rms_norm(in[0], 1e-6f)};
            },
            "a layer")[0];
        x.gradient->add(device, sequence(device, {4, 6}, 1));
      }
      tape.backward();
    }
    device.profile().stop();
    std::map<std::pair<std::string, std::string>, std::int64_t> calls;
    for (const Profile::Entry& entry : device.profile().entries()) calls[{entry.part, entry.operation}] = entry.calls;
    EXPECT_EQ((calls[{"", "linear_forward"}]), 1);
    EXPECT_EQ((calls[{"a layer", "rms_norm_forward"}]), recompute ? 2 : 1);
    EXPECT_EQ((calls[{"a layer", "rms_norm_backward"}]), 1);
    EXPECT_EQ((calls[{"", "linear_backward_weight"}]), 1);
  }
}

TEST(Tape, AScopeAcquiresAgainForTheBackwardAndReducesOnce) {
  Device device(1);
  TwoLayers model(device);
  model.run({});
  EXPECT_EQ(model.first.log, "aragr");
  EXPECT_EQ(model.head.log, "arg");
}

TEST(Tape, FrozenPartsAreNotGoneBackThrough) {
  Device device(1);
  TwoLayers model(device, false);
  model.run({});
  EXPECT_EQ(model.first.log, "ar");
  for (float g : std::vector<float>(model.first.gradient_.f32(), model.first.gradient_.f32() + 36)) EXPECT_EQ(g, 0.0f);
  EXPECT_NE(model.head.gradient_.f32()[0], 0.0f);
}

TEST(Tape, WithoutRecordingNothingIsKept) {
  Device device(1);
  TwoLayers model(device);
  model.run({.recording = false, .recompute = false});
  for (float g : model.gradients()) EXPECT_EQ(g, 0.0f);
  EXPECT_EQ(model.first.log, "ar");
}

}  // namespace
}  // namespace mtp
