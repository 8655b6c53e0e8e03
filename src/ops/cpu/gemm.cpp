#include "gemm.h"

#include <omp.h>

#include <algorithm>
#include <oneapi/dnnl/dnnl.hpp>

#include "parallel.h"

namespace mtp::ops::cpu {

namespace {

// Large enough to run at the full rate, small enough that layers of a few hundred features feed several threads.
constexpr std::int64_t tile_rows = 128;
constexpr std::int64_t tile_columns = 256;

bool is_transposed(char transpose) { return transpose == 't' || transpose == 'T'; }

}  // namespace

void gemm(char transpose_a, char transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  // oneDNN would start OpenMP threads of its own in each of ours.
  if (omp_get_max_threads() != 1) omp_set_num_threads(1);
  const auto status = dnnl_sgemm(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  MTP_ASSERT(status == dnnl_success);
}

void parallel_gemm(const Device& device, char transpose_a, char transpose_b, std::int64_t m, std::int64_t n,
                   std::int64_t k, float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                   float beta, float* c, std::int64_t ldc) {
  const std::int64_t columns = (n + tile_columns - 1) / tile_columns;
  const std::int64_t tiles = (m + tile_rows - 1) / tile_rows * columns;
  parallel_for(device, tiles, [&](std::int64_t tile) {
    const std::int64_t i = tile / columns * tile_rows, j = tile % columns * tile_columns;
    const float* tile_a = a + (is_transposed(transpose_a) ? i : i * lda);
    const float* tile_b = b + (is_transposed(transpose_b) ? j * ldb : j);
    gemm(transpose_a, transpose_b, std::min(tile_rows, m - i), std::min(tile_columns, n - j), k, alpha, tile_a, lda,
         tile_b, ldb, beta, c + i * ldc + j, ldc);
  });
}

}  // namespace mtp::ops::cpu
