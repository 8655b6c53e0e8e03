#pragma once

#include <cstdint>

#include "mtp/tensor/device.h"

namespace mtp::ops::cpu {

/// C = alpha · op(A) op(B) + beta · C, row-major: op(A) [m, k], op(B) [k, n], C [m, n]; 't' transposes; ld: elements
/// between rows as stored. Runs on the calling thread alone.
void gemm(char transpose_a, char transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);

/// The same on all threads of the device: C is cut into tiles of a fixed size, each one product, so that the bits do
/// not depend on the number of threads.
void parallel_gemm(const Device& device, char transpose_a, char transpose_b, std::int64_t m, std::int64_t n,
                   std::int64_t k, float alpha, const float* a, std::int64_t lda, const float* b, std::int64_t ldb,
                   float beta, float* c, std::int64_t ldc);

}  // namespace mtp::ops::cpu
