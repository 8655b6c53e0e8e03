#include "mtp/ops/embedding.h"

#include "cases.h"

namespace mtp::bench {

namespace {

constexpr float factor = 2;
constexpr std::int64_t no_id = -1, shift = 2;

Work lookup_forward(Device& device, const Sizes& sizes) {
  const std::vector<std::int64_t> host_ids = random_ids(sizes.rows, sizes.vocabulary, 1);
  const Tensor table = random_tensor(device, {sizes.vocabulary, sizes.base.hidden_size}, 2, 1, sizes.type),
               ids = device.from_host(host_ids), y = device.empty({sizes.rows, sizes.base.hidden_size}, sizes.type);
  return {.run = [=, &device] { ops::lookup_forward(device, table, ids, factor, y); },
          .check =
              [=, &device] {
                expect_rows(device, "y", y, [&](std::int64_t i) {
                  Values expected = row(device, table, host_ids[i]);
                  for (double& value : expected) value *= factor;
                  return expected;
                });
              },
          .bytes = bytes_of({ids, y, y})};
}

Work lookup_backward(Device& device, const Sizes& sizes) {
  const std::vector<std::int64_t> host_ids = random_ids(sizes.rows, sizes.vocabulary, 1);
  const Tensor dy = random_tensor(device, {sizes.rows, sizes.base.hidden_size}, 2, 1, sizes.type),
               ids = device.from_host(host_ids), dtable = device.zeros({sizes.vocabulary, sizes.base.hidden_size});
  const auto check = [=, &device] {
    for (const std::int64_t i : sample(sizes.rows)) {
      Values expected(static_cast<std::size_t>(sizes.base.hidden_size));
      for (std::int64_t t = 0; t < sizes.rows; ++t) {
        if (host_ids[t] != host_ids[i]) continue;
        const Values g = row(device, dy, t);
        for (std::size_t j = 0; j < g.size(); ++j) expected[j] += factor * g[j];
      }
      expect_close("dtable", row(device, dtable, host_ids[i]), expected);
    }
  };
  const double rows_of_table = static_cast<double>(dy.elements()) * sizeof(float);  // read and written
  return {.run = [=, &device] { ops::lookup_backward(device, dy, ids, factor, no_id, dtable); },
          .check = check,
          .bytes = bytes_of({ids, dy}) + 2 * rows_of_table};
}

Work shift_rows_forward(Device& device, const Sizes& sizes) {
  const ops::Sequences sequences({sizes.rows});
  const Tensor x = random_tensor(device, {sizes.rows, sizes.base.hidden_size}, 1, 1, sizes.type),
               fill = random_tensor(device, {1, sizes.base.hidden_size}, 2, 1, sizes.type),
               y = device.empty(x.shape(), sizes.type);
  return {.run = [=, &device] { ops::shift_rows_forward(device, sequences, shift, x, fill, y); },
          .check =
              [=, &device] {
                expect_rows(device, "y", y, [&](std::int64_t i) {
                  return i + shift < sizes.rows ? row(device, x, i + shift) : row(device, fill, 0);
                });
              },
          .bytes = bytes_of({x, y})};
}

Work shift_rows_backward(Device& device, const Sizes& sizes) {
  const ops::Sequences sequences({sizes.rows});
  const Tensor dy = random_tensor(device, {sizes.rows, sizes.base.hidden_size}, 1, 1, sizes.type),
               dx = device.empty(dy.shape(), sizes.type);
  return {.run = [=, &device] { ops::shift_rows_backward(device, sequences, shift, dy, dx); },
          .check =
              [=, &device] {
                expect_rows(device, "dx", dx, [&](std::int64_t i) {
                  return i >= shift ? row(device, dy, i - shift)
                                    : Values(static_cast<std::size_t>(sizes.base.hidden_size));
                });
              },
          .bytes = bytes_of({dy, dx})};
}

}  // namespace

std::vector<Case> embedding_cases() {
  return {{"lookup_forward", "", lookup_forward},
          {"lookup_backward", "", lookup_backward},
          {"shift_rows_forward", "", shift_rows_forward},
          {"shift_rows_backward", "", shift_rows_backward}};
}

}  // namespace mtp::bench
