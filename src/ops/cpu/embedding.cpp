#include "mtp/ops/embedding.h"

#include <algorithm>

#include "parallel.h"

namespace mtp::ops::cpu {

void lookup_forward(Device& device, const Tensor& table, const Tensor& ids, float factor, const Tensor& y) {
  const std::int64_t width = table.size(1), rows = ids.elements();
  MTP_ASSERT(y.size(0) == rows && y.size(1) == width);
  cpu::parallel_pieces(device, rows, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t id = ids.data<std::int64_t>()[row];
      MTP_ASSERT(id >= 0 && id < table.size(0));
      const float* in = table.f32() + id * width;
      float* out = y.f32() + row * width;
#pragma omp simd
      for (std::int64_t i = 0; i < width; ++i) out[i] = in[i] * factor;
    }
  });
}

void lookup_backward(Device& device, const Tensor& dy, const Tensor& ids, float factor, std::int64_t skip,
                     const Tensor& dtable) {
  const std::int64_t width = dtable.size(1), rows = ids.elements();
  MTP_ASSERT(dy.size(0) == rows && dy.size(1) == width);
  // A task owns columns, so that rows that share an id are added in token order on any number of threads.
  cpu::parallel_pieces(device, width, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t id = ids.data<std::int64_t>()[row];
      if (id == skip) continue;
      const float* in = dy.f32() + row * width;
      float* out = dtable.f32() + id * width;
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) out[i] += in[i] * factor;
    }
  });
}

void shift_rows_forward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& x,
                        const Tensor& fill, const Tensor& y) {
  const std::int64_t width = x.size(1);
  MTP_ASSERT(by >= 0 && x.size(0) == sequences.rows() && y.elements() == x.elements() && fill.elements() == width);
  cpu::parallel_for(device, sequences.count(), [&](std::int64_t b) {
    for (std::int64_t row = sequences.begin(b); row < sequences.end(b); ++row) {
      const float* in = row + by < sequences.end(b) ? x.f32() + (row + by) * width : fill.f32();
      std::copy_n(in, width, y.f32() + row * width);
    }
  });
}

void shift_rows_backward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& dy,
                         const Tensor& dx) {
  const std::int64_t width = dy.size(1);
  MTP_ASSERT(by >= 0 && dy.size(0) == sequences.rows() && dx.elements() == dy.elements());
  cpu::parallel_for(device, sequences.count(), [&](std::int64_t b) {
    for (std::int64_t row = sequences.begin(b); row < sequences.end(b); ++row) {
      float* out = dx.f32() + row * width;
      if (row - by >= sequences.begin(b))
        std::copy_n(dy.f32() + (row - by) * width, width, out);
      else
        std::fill_n(out, width, 0.0f);
    }
  });
}

}  // namespace mtp::ops::cpu
