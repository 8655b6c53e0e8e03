#include "mtp/ops/embedding.h"

#include <algorithm>

#include "element_type.h"
#include "parallel.h"

namespace mtp::ops::cpu {

namespace {

/// y's row t is x's row t + by of the same sequence where there is one, else `fill`, which is zero where it is empty.
void shift(const Device& device, const Sequences& sequences, std::int64_t by, const Tensor& x, const Tensor& fill,
           const Tensor& y) {
  const std::int64_t width = x.size(1);
  cpu::with_type_of(y, [&]<typename T>(T) {
    cpu::parallel_for(device, sequences.count(), [&](std::int64_t b) {
      for (std::int64_t row = sequences.begin(b); row < sequences.end(b); ++row) {
        const std::int64_t source = row + by;
        T* out = cpu::elements_of<T>(y) + row * width;
        if (source >= sequences.begin(b) && source < sequences.end(b))
          std::copy_n(cpu::elements_of<T>(x) + source * width, width, out);
        else if (!fill.empty())
          std::copy_n(cpu::elements_of<T>(fill), width, out);
        else
          std::fill_n(out, width, T());
      }
    });
  });
}

}  // namespace

void lookup_forward(Device& device, const Tensor& table, const Tensor& ids, float factor, const Tensor& y) {
  const std::int64_t width = table.size(1), rows = ids.elements();
  cpu::with_type_of(table, [&]<typename From>(From) {
    cpu::with_type_of(y, [&]<typename To>(To) {
      cpu::parallel_pieces(device, rows, 16, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t row = begin; row < end; ++row) {
          const std::int64_t id = ids.data<std::int64_t>()[row];
          MTP_ASSERT(id >= 0 && id < table.size(0));
          const From* in = cpu::elements_of<From>(table) + id * width;
          To* out = cpu::elements_of<To>(y) + row * width;
#pragma omp simd
          for (std::int64_t i = 0; i < width; ++i) out[i] = in[i] * factor;
        }
      });
    });
  });
}

void lookup_backward(Device& device, const Tensor& dy, const Tensor& ids, float factor, std::int64_t skip,
                     const Tensor& dtable) {
  const std::int64_t width = dtable.size(1), rows = ids.elements();
  cpu::with_type_of(dy, [&]<typename T>(T) {
    // A task owns columns, so that rows that share an id are added in token order on any number of threads.
    cpu::parallel_pieces(device, width, 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t id = ids.data<std::int64_t>()[row];
        if (id == skip) continue;
        const T* in = cpu::elements_of<T>(dy) + row * width;
        float* out = dtable.f32() + id * width;
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) out[i] += in[i] * factor;
      }
    });
  });
}

void put_rows(Device& device, const Tensor& x, const Tensor& rows, const Tensor& y) {
  const std::int64_t width = x.size(1);
  cpu::with_type_of(y, [&]<typename T>(T) {
    cpu::parallel_pieces(device, x.size(0), 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        const std::int64_t row = rows.data<std::int64_t>()[r];
        MTP_ASSERT(row >= 0 && row < y.size(0));
        std::copy_n(cpu::elements_of<T>(x) + r * width, width, cpu::elements_of<T>(y) + row * width);
      }
    });
  });
}

void shift_rows_forward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& x,
                        const Tensor& fill, const Tensor& y) {
  shift(device, sequences, by, x, fill, y);
}

void shift_rows_backward(Device& device, const Sequences& sequences, std::int64_t by, const Tensor& dy,
                         const Tensor& dx) {
  shift(device, sequences, -by, dy, {}, dx);
}

}  // namespace mtp::ops::cpu
