#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "mtp/ops/cross_entropy.h"
#include "ops/losses.h"

namespace mtp::ops::test {
namespace {

struct Head {
  Array centroids;  // [C, H]
  Labels ordering;  // [V]
  std::int64_t top_k;

  MaskedHead on(Device& device) const { return {to_device(device, centroids), device.from_host(ordering), top_k}; }
};

Head some_head(std::int64_t centroids, std::int64_t width, std::int64_t vocabulary, std::int64_t top_k) {
  Head head{random_array({centroids, width}, 20), Labels(vocabulary), top_k};
  std::iota(head.ordering.begin(), head.ordering.end(), 0);
  std::shuffle(head.ordering.begin(), head.ordering.end(), std::mt19937(21));
  return head;
}

/// selected[t·V + v]: whether row t scores token v.
std::vector<char> selection(const Head& head, const Array& x) {
  const auto vocabulary = static_cast<std::int64_t>(head.ordering.size());
  const std::int64_t centroids = head.centroids.size(0), tokens = vocabulary / centroids;
  const Array scores = product(x, head.centroids);
  std::vector<char> selected(x.size(0) * vocabulary);
  for (std::int64_t t = 0; t < x.size(0); ++t) {
    Labels order(centroids);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return scores(t, a) > scores(t, b); });
    for (std::int64_t i = 0; i < head.top_k * tokens; ++i)
      selected[t * vocabulary + head.ordering[order[i / tokens] * tokens + i % tokens]] = 1;
  }
  return selected;
}

/// The logits of the masked head. What is selected, and the logit of all else, are constants: they are those of x0, w0.
class MaskedLogits {
 public:
  MaskedLogits(const Head& head, const Sequences& sequences, const Array& x0, const Array& w0)
      : selected_(selection(head, x0)) {
    const Array z = product(x0, w0);
    for (std::int64_t b = 0; b < sequences.count(); ++b) {
      double least = std::numeric_limits<double>::infinity();
      for (std::int64_t i = sequences.begin(b) * z.size(1); i < sequences.end(b) * z.size(1); ++i)
        if (selected_[i]) least = std::min(least, z.values[i]);
      for (std::int64_t t = sequences.begin(b); t < sequences.end(b); ++t) unselected_.push_back(least - 1);
    }
  }

  Array operator()(const Array& x, const Array& w) const {
    Array z = product(x, w);
    for (std::int64_t i = 0; i < num_elements(z.shape); ++i)
      if (!selected_[i]) z.values[i] = unselected_[i / z.size(1)];
    return z;
  }

 private:
  std::vector<char> selected_;
  std::vector<double> unselected_;
};

using LogitsLoss = std::function<double(const Array& z, const Array& z0)>;  // z0: those of the constants x0, w0
using MaskedRun = std::function<void(Device&, const MaskedHead&, const Sequences&, const Tensor& x, const Tensor& w,
                                     const Tensor& loss, const Tensor& dx, const Tensor& dw)>;

Operation masked(LossCase shape, const Head& head, const std::vector<std::int64_t>& lengths, const std::string& entry,
                 const LogitsLoss& loss_of_logits, const MaskedRun& run) {
  const Sequences sequences(lengths);
  shape.rows = sequences.rows();
  Operation operation =
      loss_operation(shape, {},
                     [=](Device& device, const Tensor& x, const Tensor& w, const Tensor& loss, const Tensor& dx,
                         const Tensor& dw) { run(device, head.on(device), sequences, x, w, loss, dx, dw); });
  operation.rounds_within_on_gpus = false;
  if (!entry.empty()) operation = with_stored_values(operation, entry);
  // x and w once more, as the constants x0 and w0: the operation does not see them.
  operation.inputs.insert(operation.inputs.end(), {operation.inputs[0], operation.inputs[1]});
  operation.reference = [=](const std::vector<Array>& inputs) {
    const MaskedLogits logits(head, sequences, inputs[2], inputs[3]);
    return Array({1}, {loss_of_logits(logits(inputs[0], inputs[1]), logits(inputs[2], inputs[3]))});
  };
  return operation;
}

Operation cross_entropy(const LossCase& shape, const Head& head, const std::vector<std::int64_t>& lengths,
                        const Labels& labels, const std::string& entry = "") {
  return masked(
      shape, head, lengths, entry, [=](const Array& z, const Array&) { return cross_entropy_sum(z, labels); },
      [=](Device& device, const MaskedHead& masked_head, const Sequences& sequences, const Tensor& x, const Tensor& w,
          const Tensor& loss, const Tensor& dx, const Tensor& dw) {
        masked_cross_entropy(device, {.gradient_scale = gradient_scale}, masked_head, sequences, x, w,
                             device.from_host(labels), loss, dx, dw);
      });
}

Operation distillation(const LossCase& shape, const Head& head, const std::vector<std::int64_t>& lengths, Lesson lesson,
                       Distance distance = Distance::cross_entropy, const std::string& entry = "") {
  lesson.distance = distance;
  return masked(
      shape, head, lengths, entry, [=](const Array& z, const Array& z0) { return lesson.loss_sum(z, z0); },
      [=](Device& device, const MaskedHead& masked_head, const Sequences& sequences, const Tensor& x, const Tensor& w,
          const Tensor& loss, const Tensor& dx, const Tensor& dw) {
        masked_distillation(device, {.gradient_scale = gradient_scale}, masked_head, sequences, x, w,
                            lesson.teacher(device), device.from_host(lesson.rows), loss, dx, dw);
      });
}

Head stored_head(const std::string& name) {
  return {stored_array(stored(name).at("centroids")), stored(name).at("ordering").get<Labels>(), 2};
}

std::vector<Operation> operations() {
  const Head small = some_head(6, 8, 48, 2), all = some_head(4, 8, 20, 4), wide = some_head(12, 8, 24, 5);
  const LossCase shape{"", 0, 8, 48};
  const auto named = [](LossCase loss_case, const std::string& name) {
    loss_case.name = name;
    return loss_case;
  };
  const std::vector<std::int64_t> several = {12, 1, 7}, no_label_in_second = {4, 2, 4};
  Labels gap = some_labels(10, 48);
  gap[4] = gap[5] = no_label;
  return {cross_entropy(named(shape, "one_sequence"), small, {20}, some_labels(20, 48)),
          cross_entropy(named(shape, "several_sequences"), small, several, some_labels(20, 48)),
          cross_entropy(named(shape, "sequence_without_label"), small, no_label_in_second, gap),
          cross_entropy(named(shape, "no_label"), small, {5}, Labels(5, no_label)),
          cross_entropy({"every_token_selected", 0, 8, 20}, all, {10}, some_labels(10, 20)),
          cross_entropy({"two_chunks", 0, 8, 24}, wide, {420}, some_labels(420, 24)),
          cross_entropy({"without_dx", 0, 8, 48, false, true}, small, {9}, some_labels(9, 48)),
          cross_entropy({"without_dw", 0, 8, 48, true, false}, small, {9}, some_labels(9, 48)),
          cross_entropy({"loss_only", 0, 8, 48, false, false}, small, {9}, some_labels(9, 48)),
          distillation(named(shape, "teacher"), small, several, some_lesson(Sequences(several), 48, 3)),
          distillation({"teacher_two_chunks", 0, 8, 24}, wide, {420}, some_lesson(Sequences({420}), 24, 0)),
          distillation(named(shape, "total_variation"), small, several, some_lesson(Sequences(several), 48, 3),
                       Distance::total_variation),
          distillation(named(shape, "mixed"), small, several, some_lesson(Sequences(several), 48, 3), Distance::mixed),
          distillation({"", 8, 6, 24}, stored_head("masked_mixed"), {8}, stored_lesson("masked_mixed"), Distance::mixed,
                       "masked_mixed"),
          cross_entropy({"", 8, 6, 24}, stored_head("masked_cross_entropy"), {8},
                        stored("masked_cross_entropy").at("labels").get<Labels>(), "masked_cross_entropy"),
          distillation({"", 8, 6, 24}, stored_head("masked_distillation"), {8}, stored_lesson("masked_distillation"),
                       Distance::cross_entropy, "masked_distillation")};
}

INSTANTIATE_TEST_SUITE_P(MaskedHead, OperationTest, on_every_device(operations()), operation_name);

class MaskedHeadTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, MaskedHeadTest, testing::ValuesIn(device_kinds()), device_name);

// Centroids 1 to 3 are equally near: 1 and 2 are chosen, so token 3, whose logit is 0, is left at 1 - 1.
TEST_P(MaskedHeadTest, AmongEqualCentroidsTheFirstAreChosen) {
  Device device = make_device(GetParam());
  const MaskedHead head{device.from_host(std::vector{1.0f, 2.0f, 2.0f, 2.0f}, {4, 1}),
                        device.from_host(Labels{0, 1, 2, 3}), 2};
  const Tensor x = device.from_host(std::vector{1.0f}, {1, 1}),
               w = device.from_host(std::vector{9.0f, 1.0f, 1.0f, 9.0f}, {4, 1});
  const Tensor loss = device.zeros({1}, DType::f64);
  masked_cross_entropy(device, {}, head, Sequences({1}), x, w, device.from_host(Labels{1}), loss, {}, {});
  EXPECT_NEAR(to_host(device, loss).values[0], std::log(2 * std::exp(1.0) + 2) - 1, 1e-6);
}

// One of two tokens is selected. The least score of the first sequence is -3, that of its row without a label.
TEST_P(MaskedHeadTest, UnselectedLogitsFollowTheLeastScoreOfTheirOwnSequence) {
  Device device = make_device(GetParam());
  const MaskedHead head{device.from_host(std::vector{1.0f, -1.0f}, {2, 1}), device.from_host(Labels{0, 1}), 1};
  const Tensor x = device.from_host(std::vector{2.0f, 3.0f, 7.0f}, {3, 1});
  const Tensor w = device.from_host(std::vector{-1.0f, 0.0f}, {2, 1}), loss = device.zeros({1}, DType::f64);
  masked_cross_entropy(device, {}, head, Sequences({2, 1}), x, w, device.from_host(Labels{0, no_label, no_label}), loss,
                       {}, {});
  EXPECT_NEAR(to_host(device, loss).values[0], std::log(std::exp(-2.0) + std::exp(-4.0)) + 2, 1e-6);
}

TEST_P(MaskedHeadTest, OnlySelectedScoresAreStored) {
  const std::int64_t rows = 512, vocabulary = 16384, width = 4;
  const Head head = some_head(vocabulary / 16, width, vocabulary, 2);
  const auto bytes_for = [&](std::int64_t count) {
    Device device = make_device(GetParam());
    const Tensor x = to_device(device, random_array({count, width}, 1)),
                 w = to_device(device, random_array({vocabulary, width}, 2));
    const Tensor loss = device.zeros({1}, DType::f64), labels = device.from_host(Labels(count, 3));
    masked_cross_entropy(device, {}, head.on(device), Sequences({count}), x, w, labels, loss,
                         to_write(device, x.shape()), to_add_to(device, w.shape()));
    return device.accounts().of(MemoryUse::logits);
  };
  EXPECT_LT(bytes_for(2 * rows) - bytes_for(rows), rows * vocabulary * static_cast<std::int64_t>(sizeof(float)) / 4);
}

}  // namespace
}  // namespace mtp::ops::test
