#include "mtp/ops/cross_entropy.h"

#include "ops/losses.h"

namespace mtp::ops::test {

Labels some_labels(std::int64_t rows, std::int64_t vocabulary) {
  Labels labels(rows);
  for (std::int64_t t = 0; t < rows; ++t) labels[t] = t % 3 == 1 ? no_label : (5 * t * t + t) % vocabulary;
  return labels;
}

Lesson some_lesson(const Sequences& sequences, std::int64_t vocabulary, float soft_cap) {
  Lesson lesson{random_array({sequences.rows(), 5}, 10, 2), random_array({vocabulary, 5}, 11, 2), soft_cap, {}};
  for (std::int64_t b = 0; b < sequences.count(); ++b)
    for (std::int64_t t = sequences.begin(b); t < sequences.end(b); ++t)
      lesson.rows.push_back(t % 3 != 1 && t + 2 < sequences.end(b) ? t + 2 : -1);
  return lesson;
}

Lesson stored_lesson(const std::string& name) {
  const nlohmann::json& entry = stored(name);
  Lesson lesson{stored_array(entry.at("teacher_x")), stored_array(entry.at("teacher_w")), 4, {}};
  const auto labels = entry.at("labels").get<Labels>();
  for (std::size_t t = 1; t <= labels.size(); ++t)
    lesson.rows.push_back(t < labels.size() && labels[t] >= 0 ? static_cast<std::int64_t>(t) : -1);
  return lesson;
}

Operation loss_operation(const LossCase& shape, std::function<double(const Array& x, const Array& w)> reference,
                         RunLoss run) {
  return {.name = shape.name,
          .inputs = {random_array({shape.rows, shape.width}, 1), random_array({shape.vocabulary, shape.width}, 2)},
          .output_gradient = Array({1}, {gradient_scale}),
          .reference = [=](const std::vector<Array>& inputs) { return Array({1}, {reference(inputs[0], inputs[1])}); },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor&) {
                const Tensor &x = inputs[0], &w = inputs[1];
                const Tensor loss = device.zeros({1}, DType::f64);
                const Tensor dx = shape.with_dx ? to_write(device, x) : Tensor();
                const Tensor dw = shape.with_dw ? to_add_to(device, w.shape()) : Tensor();
                run(device, x, w, loss, dx, dw);
                return Result{loss, {dx, dw}};
              },
          .added = {1},
          .rounds_within_on_gpus = true};
}

namespace {

Operation cross_entropy(const LossCase& shape, float cap, const Labels& labels) {
  return loss_operation(
      shape, [=](const Array& x, const Array& w) { return cross_entropy_sum(capped(product(x, w), cap), labels); },
      [=](Device& device, const Tensor& x, const Tensor& w, const Tensor& loss, const Tensor& dx, const Tensor& dw) {
        projected_cross_entropy(device, {cap, gradient_scale}, x, w, device.from_host(labels), loss, dx, dw);
      });
}

Operation distillation(const LossCase& shape, float cap, Lesson lesson, Distance distance = Distance::cross_entropy,
                       const std::string& entry = "") {
  lesson.distance = distance;
  Operation operation = loss_operation(
      shape, {},
      [=](Device& device, const Tensor& x, const Tensor& w, const Tensor& loss, const Tensor& dx, const Tensor& dw) {
        projected_distillation(device, {cap, gradient_scale}, x, w, lesson.teacher(device),
                               device.from_host(lesson.rows), loss, dx, dw);
      });
  if (!entry.empty()) operation = with_stored_values(operation, entry);
  // x and w once more, as constants: the operation does not see them.
  operation.inputs.insert(operation.inputs.end(), {operation.inputs[0], operation.inputs[1]});
  operation.reference = [=](const std::vector<Array>& inputs) {
    const auto z = [&](std::size_t i) { return capped(product(inputs[i], inputs[i + 1]), cap); };
    return Array({1}, {lesson.loss_sum(z(0), z(2))});
  };
  return operation;
}

Operation stored_cross_entropy(const std::string& name, float cap) {
  return with_stored_values(cross_entropy({"", 8, 6, 24}, cap, stored(name).at("labels").get<Labels>()), name);
}

Operation stored_distillation(const std::string& name, float cap, Distance distance = Distance::cross_entropy) {
  return distillation({"", 8, 6, 24}, cap, stored_lesson(name), distance, name);
}

// Rows come in chunks of 256: the long ones take two.
INSTANTIATE_TEST_SUITE_P(ProjectedCrossEntropy, OperationTest,
                         on_every_device({cross_entropy({"one_row", 1, 4, 7}, 0, {5}),
                                          cross_entropy({"no_label", 3, 4, 7}, 0, Labels(3, no_label)),
                                          cross_entropy({"some_labels", 20, 8, 33}, 0, some_labels(20, 33)),
                                          cross_entropy({"capped", 20, 8, 33}, 1.5f, some_labels(20, 33)),
                                          cross_entropy({"two_chunks", 420, 4, 9}, 30, some_labels(420, 9)),
                                          cross_entropy({"without_dx", 5, 4, 7, false, true}, 0, some_labels(5, 7)),
                                          cross_entropy({"without_dw", 5, 4, 7, true, false}, 0, some_labels(5, 7)),
                                          cross_entropy({"loss_only", 5, 4, 7, false, false}, 0, some_labels(5, 7)),
                                          stored_cross_entropy("projected_cross_entropy", 0),
                                          stored_cross_entropy("capped_cross_entropy", 2)}),
                         operation_name);

INSTANTIATE_TEST_SUITE_P(
    ProjectedDistillation, OperationTest,
    on_every_device(
        {distillation({"one_sequence", 9, 8, 33}, 0, some_lesson(Sequences({9}), 33, 0)),
         distillation({"capped", 20, 8, 33}, 1.5f, some_lesson(Sequences({12, 1, 7}), 33, 3)),
         distillation({"no_teacher", 2, 8, 33}, 0, some_lesson(Sequences({1, 1}), 33, 3)),
         distillation({"two_chunks", 420, 4, 9}, 0, some_lesson(Sequences({420}), 9, 0)),
         distillation({"total_variation", 9, 8, 33}, 0, some_lesson(Sequences({9}), 33, 0), Distance::total_variation),
         distillation({"total_variation_capped", 20, 8, 33}, 1.5f, some_lesson(Sequences({12, 1, 7}), 33, 3),
                      Distance::total_variation),
         distillation({"mixed", 20, 8, 33}, 1.5f, some_lesson(Sequences({12, 1, 7}), 33, 3), Distance::mixed),
         distillation({"mixed_two_chunks", 420, 4, 9}, 0, some_lesson(Sequences({420}), 9, 0), Distance::mixed),
         stored_distillation("projected_distillation", 0), stored_distillation("capped_distillation", 2),
         stored_distillation("projected_total_variation", 0, Distance::total_variation),
         stored_distillation("projected_mixed", 0, Distance::mixed),
         stored_distillation("capped_mixed", 2, Distance::mixed)}),
    operation_name);

class CrossEntropyTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(Devices, CrossEntropyTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(CrossEntropyTest, LargeLogitsStayFinite) {
  Device device = make_device(GetParam());
  const Tensor x = device.from_host(std::vector{1000.0f}, {1, 1}),
               w = device.from_host(std::vector{1.0f, -1.0f}, {2, 1});
  const Tensor loss = device.zeros({1}, DType::f64), dx = to_write(device, {1, 1});
  projected_cross_entropy(device, {}, x, w, device.from_host(std::vector<std::int64_t>{1}), loss, dx, Tensor());
  EXPECT_EQ(to_host(device, loss).values[0], 2000);
  EXPECT_EQ(to_host(device, dx).values[0], 2);  // all probability is on token 0: 1·1 - 1·(-1)
}

TEST_P(CrossEntropyTest, ALogitThatIsNotANumberShowsInTheLoss) {
  Device device = make_device(GetParam());
  const Tensor x = device.from_host(std::vector{NAN, 1.0f}, {2, 1}),
               w = device.from_host(std::vector{1.0f, 2.0f}, {2, 1});
  const Tensor loss = device.zeros({1}, DType::f64);
  projected_cross_entropy(device, {}, x, w, device.from_host(std::vector<std::int64_t>{1, 1}), loss, {}, {});
  EXPECT_TRUE(std::isnan(to_host(device, loss).values[0]));
}

TEST_P(CrossEntropyTest, LogitsExistForAChunkOfRowsAtATime) {
  const std::int64_t rows = 4096, vocabulary = 512;
  const auto bytes_for = [&](std::int64_t count) {
    Device device = make_device(GetParam());
    const Tensor x = to_device(device, random_array({count, 2}, 1)),
                 w = to_device(device, random_array({vocabulary, 2}, 2));
    const Tensor loss = device.zeros({1}, DType::f64), labels = device.from_host(Labels(count, 3));
    projected_cross_entropy(device, {}, x, w, labels, loss, to_write(device, x.shape()), to_add_to(device, w.shape()));
    return device.accounts().of(MemoryUse::logits);
  };
  EXPECT_LT(bytes_for(2 * rows) - bytes_for(rows), rows * vocabulary * static_cast<std::int64_t>(sizeof(float)) / 4);
}

}  // namespace
}  // namespace mtp::ops::test
