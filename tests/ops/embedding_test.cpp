#include "mtp/ops/embedding.h"

#include "ops/support.h"

namespace mtp::ops::test {
namespace {

constexpr std::int64_t pad = 0;

Operation lookup(const std::string& name, const Array& table, const std::vector<std::int64_t>& ids, float factor) {
  const auto rows = static_cast<std::int64_t>(ids.size());
  const std::int64_t width = table.size(1);
  return {.name = name,
          .inputs = {table},
          .output_gradient = random_array({rows, width}, 2),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y({rows, width});
                for (std::int64_t t = 0; t < rows; ++t) {
                  const Array& source = ids[t] == pad ? table : inputs[0];  // without a gradient, a constant
                  for (std::int64_t i = 0; i < width; ++i) y(t, i) = factor * source(ids[t], i);
                }
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor id_tensor = device.from_host(ids);
                const Tensor y = to_write(device, dy), dtable = to_add_to(device, table.shape);
                lookup_forward(device, inputs[0], id_tensor, factor, y);
                lookup_backward(device, dy, id_tensor, factor, pad, dtable);
                return Result{y, {dtable}};
              },
          .added = {0}};
}

std::vector<std::int64_t> repeated_ids(std::int64_t count, std::int64_t vocabulary) {
  std::vector<std::int64_t> ids(count);
  for (std::int64_t t = 0; t < count; ++t) ids[t] = t * t % vocabulary;
  return ids;
}

Operation stored_lookup() {
  const nlohmann::json& entry = stored("lookup");
  const auto ids = entry.at("ids").get<std::vector<std::int64_t>>();
  return with_stored_values(lookup("", stored_array(entry.at("inputs").at(0)), ids, 1.75f), "lookup");
}

INSTANTIATE_TEST_SUITE_P(Lookup, OperationTest,
                         on_every_device({lookup("one_row", random_array({3, 5}, 1), {2}, 1),
                                          lookup("only_pad", random_array({3, 5}, 1), {pad, pad}, 2),
                                          lookup("repeated_ids", random_array({11, 130}, 1), repeated_ids(200, 11), 11),
                                          stored_lookup()}),
                         operation_name);

Operation shift_rows(const std::string& name, const std::vector<std::int64_t>& lengths, std::int64_t width,
                     std::int64_t by) {
  const Sequences sequences(lengths);
  const Shape shape = {sequences.rows(), width};
  return {.name = name,
          .inputs = {random_array(shape, 1), random_array({1, width}, 2)},
          .output_gradient = random_array(shape, 3),
          .reference =
              [=](const std::vector<Array>& inputs) {
                Array y(shape);
                for (std::int64_t b = 0; b < sequences.count(); ++b)
                  for (std::int64_t t = sequences.begin(b); t < sequences.end(b); ++t)
                    for (std::int64_t i = 0; i < width; ++i)
                      y(t, i) = t + by < sequences.end(b) ? inputs[0](t + by, i) : inputs[1](0, i);
                return y;
              },
          .run =
              [=](Device& device, const std::vector<Tensor>& inputs, const Tensor& dy) {
                const Tensor y = to_write(device, dy), dx = to_write(device, dy);
                shift_rows_forward(device, sequences, by, inputs[0], inputs[1], y);
                shift_rows_backward(device, sequences, by, dy, dx);
                return Result{y, {dx, Tensor()}};
              }};
}

INSTANTIATE_TEST_SUITE_P(ShiftRows, OperationTest,
                         on_every_device({shift_rows("by_nothing", {5, 2}, 3, 0), shift_rows("by_one", {5, 1, 4}, 3, 1),
                                          shift_rows("past_short_sequences", {5, 2, 9}, 3, 4),
                                          with_stored_values(shift_rows("", {5}, 3, 2), "shift_rows_by_2"),
                                          with_stored_values(shift_rows("", {5}, 3, 9), "shift_rows_by_9")}),
                         operation_name);

}  // namespace
}  // namespace mtp::ops::test
