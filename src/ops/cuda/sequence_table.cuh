#pragma once

#include <algorithm>

#include "elements.cuh"
#include "mtp/ops/sequences.h"

namespace mtp::ops::cuda {

/// Some of a micro-batch's sequences as an argument of a kernel, so that nothing needs to be copied to the device
/// first.
struct SequenceTable {
  static constexpr int most = 64;

  int count = 0;
  std::int64_t offsets[most + 1] = {};  // sequence b has rows offsets[b] … offsets[b + 1] - 1

  __host__ __device__ std::int64_t first_row() const { return offsets[0]; }
  __host__ __device__ std::int64_t end_row() const { return offsets[count]; }
  /// The sequence that a row belongs to.
  __device__ int of_row(std::int64_t row) const {
    int b = 0;
    while (offsets[b + 1] <= row) ++b;
    return b;
  }
};

/// body(table) for all sequences, as many at a time as a table holds.
template <typename Body>
void for_each_table(const Sequences& sequences, const Body& body) {
  for (std::int64_t first = 0; first < sequences.count(); first += SequenceTable::most) {
    SequenceTable table;
    table.count = static_cast<int>(std::min<std::int64_t>(SequenceTable::most, sequences.count() - first));
    for (int b = 0; b < table.count; ++b) table.offsets[b] = sequences.begin(first + b);
    table.offsets[table.count] = sequences.end(first + table.count - 1);
    body(table);
  }
}

}  // namespace mtp::ops::cuda
