#pragma once

#include <cstdint>
#include <vector>

#include "../operand.h"
#include "mtp/tensor/device.h"

namespace mtp::ops::cpu {

/// C = alpha · op(A) op(B) + beta · C, row-major: op(A) [m, k], op(B) [k, n], C [m, n]; 't' transposes; ld: elements
/// between rows as stored. Runs on the calling thread alone.
void gemm(char transpose_a, char transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, float alpha,
          const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc);

/// c = a b + beta · c on all threads of the device; each matrix fp32 or bf16, beta 0 where c is bf16. c is cut into
/// tiles of a fixed size, each one product in fp32, so that the bits do not depend on the number of threads.
void parallel_gemm(Device& device, const Operand& a, const Operand& b, float beta, const Tensor& c);

/// c = a b
struct Product {
  Operand a, b;
  Tensor c;
};

/// The same for several products, whose tiles share the threads: small ones alone would not feed them.
void parallel_gemms(Device& device, const std::vector<Product>& products, float beta);

}  // namespace mtp::ops::cpu
