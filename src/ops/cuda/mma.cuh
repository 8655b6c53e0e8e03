#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime.h>

namespace mtp::ops::cuda {

// Tensor cores and asynchronous copies, one function per instruction of the PTX ISA. In the emulation,
// tests/cuda_emulation/mma.h carries them out.
//
// Fragments, with g = lane / 4 and t = lane % 4; a register holds two bf16 of neighbouring columns (of b: rows), the
// first in its lower half:
//   a [16 rows, 16 columns]  a[0]: row g, columns 2t, 2t+1    a[1]: row g+8    a[2], a[3]: the same, columns 2t+8, 2t+9
//   b [16 rows, 8 columns]   b[0]: rows 2t, 2t+1, column g    b[1]: rows 2t+8, 2t+9
//   c [16 rows, 8 columns]   c[0], c[1]: row g, columns 2t, 2t+1    c[2], c[3]: row g+8    (fp32)

/// The same number, of which the compiler knows nothing: what is made from it is made again in every turn of a loop,
/// which costs an instruction or two, instead of being kept in registers, of which the kernels here have none to spare.
template <typename T>
__device__ T rematerialized(T x) {
  asm volatile("" : "+r"(x));
  return x;
}

#ifdef MTP_CUDA_EMULATION

using emulation::commit_copies;
using emulation::copy_async;
using emulation::load_matrices;
using emulation::load_matrices_transposed;
using emulation::multiply_add;
using emulation::pack_bf16;
using emulation::wait_for_copies;

#else

/// Where the shared window of the address space has this.
__device__ inline std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// c += a b, by a whole warp.
__device__ inline void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four matrices of 8 rows of 8 bf16, by a whole warp: lane 8i + j gives where row j of matrix i is, aligned to 16
/// bytes; matrix i arrives in register i of all lanes: row g, columns 2t, 2t+1.
__device__ inline void load_matrices(std::uint32_t (&to)[4], const std::byte* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

/// The same, transposed: rows 2t, 2t+1, column g.
__device__ inline void load_matrices_transposed(std::uint32_t (&to)[4], const std::byte* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

/// Begins to copy `bytes` (4 or 16, aligned to as many) from global to shared memory; where not `exists`, zeros are
/// written and nothing is read.
template <int bytes>
__device__ inline void copy_async(void* to, const void* from, bool exists) {
  static_assert(bytes == 4 || bytes == 16);
  const int read = exists ? bytes : 0;
  if constexpr (bytes == 16)  // past the first-level cache, which nothing would find again
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(read)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(read)
                 : "memory");
}

/// Makes a group of the copies that the thread has begun since the last one.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until all groups of the thread but the newest `left` have arrived. Other threads see them after a barrier.
template <int left>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
}

/// Two numbers rounded to bf16, the first in the lower half.
__device__ inline std::uint32_t pack_bf16(float first, float second) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
}

#endif

}  // namespace mtp::ops::cuda
