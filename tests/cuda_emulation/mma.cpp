#include "mma.h"

#include <cstring>
#include <deque>
#include <vector>

#include "cuda_runtime.h"
#include "mtp/tensor/bfloat16.h"

namespace emulation {

namespace {

constexpr int lanes = 32;

float number(std::uint32_t pair, int half) { return __uint_as_float(half == 0 ? pair << 16 : pair & 0xFFFF0000u); }

/// What a lane gives to a product of its warp.
struct Operands {
  const std::uint32_t* a;
  std::uint32_t b[2];
  float* c;
  bool is_done = false;
};

/// The first lane that goes on computes for all.
void multiply(Operands* const (&warp)[lanes]) {
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < lanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = number(warp[lane]->a[i], half);
      for (int i = 0; i < 2; ++i) b[2 * t + i * 8 + half][g] = number(warp[lane]->b[i], half);
      for (int i = 0; i < 2; ++i) c[g + i * 8][2 * t + half] = warp[lane]->c[2 * i + half];
    }
  }
  for (int row = 0; row < 16; ++row)
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column) c[row][column] += a[row][k] * b[k][column];
  for (int lane = 0; lane < lanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half)
      for (int i = 0; i < 2; ++i) warp[lane]->c[2 * i + half] = c[g + i * 8][2 * t + half];
    warp[lane]->is_done = true;
  }
}

/// Where the rows of four matrices are, as the lanes give them.
struct MatrixRows {
  const std::uint64_t* addresses;

  explicit MatrixRows(const std::byte* own) : addresses(exchange(reinterpret_cast<std::uint64_t>(own))) {
    for (int matrix = 0; matrix < 4 && lane() == 0; ++matrix) check(addresses + 8 * matrix);
  }
  std::uint16_t at(int matrix, unsigned row, unsigned column) const {
    std::uint16_t value;
    std::memcpy(&value, reinterpret_cast<const std::byte*>(addresses[8 * matrix + row]) + 2 * column, sizeof value);
    return value;
  }

 private:
  static void check(const std::uint64_t* rows) {
    unsigned banks = 0;
    for (int i = 0; i < 8; ++i) {
      if (rows[i] % 16 != 0) fail("a matrix's row is not aligned to 16 bytes");
      banks |= 1u << rows[i] / 16 % 8;
    }
    if (banks != 0xFF) fail("rows of a matrix share banks");
  }
};

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  bool exists;

  void carry_out() const {
    if (exists)
      std::memcpy(to, from, bytes);
    else
      std::memset(to, 0, bytes);
  }
};

/// A thread's copies that are under way.
struct Copies {
  std::vector<Copy> since_commit;
  std::deque<std::vector<Copy>> groups;
};
Copies copies_of_thread[1024];

Copies& copies() { return copies_of_thread[threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)]; }

bool happens_at_once() {
  static unsigned count = 0;
  return order() == Order::backward || (order() == Order::shuffled && ++count % 3 == 0);
}

}  // namespace

void multiply_add(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  Operands own{a, {b0, b1}, c};
  const std::uint64_t* const given = exchange(reinterpret_cast<std::uint64_t>(&own));
  if (own.is_done) return;
  Operands* warp[lanes];
  for (int lane = 0; lane < lanes; ++lane) warp[lane] = reinterpret_cast<Operands*>(given[lane]);
  multiply(warp);
}

void load_matrices(std::uint32_t (&to)[4], const std::byte* row) {
  const MatrixRows rows(row);
  const unsigned g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) to[i] = rows.at(i, g, 2 * t) | static_cast<std::uint32_t>(rows.at(i, g, 2 * t + 1)) << 16;
}

void load_matrices_transposed(std::uint32_t (&to)[4], const std::byte* row) {
  const MatrixRows rows(row);
  const unsigned g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) to[i] = rows.at(i, 2 * t, g) | static_cast<std::uint32_t>(rows.at(i, 2 * t + 1, g)) << 16;
}

void copy_async(void* to, const void* from, std::size_t bytes, bool exists) {
  if (reinterpret_cast<std::uintptr_t>(to) % bytes != 0 || reinterpret_cast<std::uintptr_t>(from) % bytes != 0)
    fail("an asynchronous copy is not aligned");
  const Copy copy{to, from, bytes, exists};
  if (happens_at_once())
    copy.carry_out();
  else
    copies().since_commit.push_back(copy);
}

void commit_copies() {
  copies().groups.push_back(std::move(copies().since_commit));
  copies().since_commit.clear();
}

void wait_for_copies(std::size_t left) {
  for (; copies().groups.size() > left; copies().groups.pop_front())
    for (const Copy& copy : copies().groups.front()) copy.carry_out();
}

bool has_copies_under_way() { return !copies().groups.empty() || !copies().since_commit.empty(); }

std::uint32_t pack_bf16(float first, float second) {
  return mtp::BFloat16(first).bits | static_cast<std::uint32_t>(mtp::BFloat16(second).bits) << 16;
}

}  // namespace emulation
