#pragma once

// Tensor cores and asynchronous copies: the functions of src/ops/cuda/mma.cuh, which says what they do.

#include <cstddef>
#include <cstdint>

namespace emulation {

/// Products of bf16 are exact in fp32, in which they are added to c in the order of the inner index.
void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);

// Both end the program where a row is not aligned, or where two of a matrix's rows are in the same banks of shared
// memory, which a GPU would read one after the other.
void load_matrices(std::uint32_t (&to)[4], const std::byte* row);
void load_matrices_transposed(std::uint32_t (&to)[4], const std::byte* row);

// A copy happens at once on one device, on another not before it is waited for, and on the third now so, now so: what
// reads too early, or is overwritten too early, differs between them. A thread that ends with copies under way ends the
// program.
void copy_async(void* to, const void* from, std::size_t bytes, bool exists);
template <int bytes>
void copy_async(void* to, const void* from, bool exists) {
  static_assert(bytes == 4 || bytes == 16);
  copy_async(to, from, bytes, exists);
}
void commit_copies();
void wait_for_copies(std::size_t left);
template <int left>
void wait_for_copies() {
  wait_for_copies(left);
}
bool has_copies_under_way();

std::uint32_t pack_bf16(float first, float second);

}  // namespace emulation
