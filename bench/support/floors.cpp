#include "support/floors.h"

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <vector>

#include "mtp/ops/elementwise.h"
#include "mtp/ops/matmul.h"
#include "mtp/tensor/bfloat16.h"
#include "parallel_program.h"
#include "support/timing.h"

namespace mtp::bench {

namespace {

constexpr double time_of_a_floor = 0.1;  // seconds; the best timing of that time counts
constexpr int least_timings = 3;
constexpr std::int64_t floats = sizeof(float);
constexpr std::int64_t part_elements = std::int64_t{1} << 21;  // of a run

/// Work on floats 0 … n - 1, each of which is read once and written once, part after part and over again; `body(begin,
/// end)` is called on every thread at once.
template <typename Body>
MemoryWork over_parts(Device& device, std::int64_t n, const Body& body) {
  const std::int64_t part = std::min(n, part_elements), threads = device.threads().threads();
  return {.run =
              [&device, n, part, threads, body, next = std::int64_t{0}]() mutable {
                device.threads().run(
                    threads, [&](std::int64_t i) { body(next + part * i / threads, next + part * (i + 1) / threads); });
                next = (next + part) % n;
              },
          .bytes = static_cast<double>(2 * part * floats)};
}

/// least, 4 · least, … up to `most` bytes.
std::vector<std::int64_t> ranges(std::int64_t least, std::int64_t most) {
  std::vector<std::int64_t> all;
  for (std::int64_t bytes = least; bytes <= most; bytes *= 4) all.push_back(bytes);
  return all;
}

/// The element of a factor.
using Element = std::function<double(std::int64_t row, std::int64_t column)>;

/// Throws Error where the last row of `product` is not that of a b.
void check_last_row(const Device& device, const Tensor& product, const Element& a, const Element& b) {
  const std::int64_t size = product.size(-1);
  std::vector<float> last(static_cast<std::size_t>(size));
  device.to_host(product.slice(product.elements() - size, {size}), last);
  for (std::int64_t j = 0; j < size; ++j) {
    double sum = 0;  // of small integers: exact in fp32 too
    for (std::int64_t k = 0; k < size; ++k) sum += a(size - 1, k) * b(k, j);
    const double expected = rounded_to(product.dtype(), static_cast<float>(sum));
    if (last[j] != expected) throw Error("matrix product: element {} is {}, it should be {}", j, last[j], expected);
  }
}

double flops_of(std::int64_t size) { return 2.0 * static_cast<double>(size) * static_cast<double>(size * size); }

MatrixProduct products_of_threads(Device& device, std::int64_t size) {
  const auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(size * size));
  for (std::size_t i = 0; i < values->size(); ++i) (*values)[i] = static_cast<float>(i % 7) - 3;
  const std::int64_t threads = device.threads().threads();
  const Tensor a = device.from_host(*values, {size, size}), c = device.empty({threads, size, size});
  const Element element = [=](std::int64_t row, std::int64_t column) { return (*values)[row * size + column]; };
  return {.run =
              [=, &device] {
                device.threads().run(threads, [&](std::int64_t i) {
                  omp_set_num_threads(1);  // each product has one thread
                  dnnl_sgemm('n', 'n', size, size, size, 1, a.f32(), size, a.f32(), size, 0, c.f32() + i * size * size,
                             size);
                });
              },
          .check = [=, &device] { check_last_row(device, c, element, element); },
          .flops = flops_of(size) * static_cast<double>(threads)};
}

/// Integers from -most to most.
template <typename Generator>
float random_integer(Generator& generator, std::int64_t most) {
  return static_cast<float>(static_cast<std::int64_t>(generator()) % (2 * most + 1) - most);
}

/// Factors use all bits of bf16, for a GPU that is short of power multiplies zeros faster. The last row, whose products
/// are checked, is of smaller integers: every sum of them is exact in fp32, in whatever order a library adds.
MatrixProduct product_on_gpu(Device& device, std::int64_t size, DType type) {
  constexpr std::int64_t most = 127, most_of_last_row = 15, exact_integers = std::int64_t{1} << 24;
  MTP_ASSERT(size * most * most_of_last_row <= exact_integers);
  const auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(size * size));
  std::minstd_rand generator(1);
  const auto last_row = values->end() - size;
  std::generate(values->begin(), last_row, [&] { return random_integer(generator, most); });
  std::generate(last_row, values->end(), [&] { return random_integer(generator, most_of_last_row); });
  const Tensor a = device.from_host(*values, {size, size}, type), c = device.empty({size, size}, type);
  const Element element = [=](std::int64_t row, std::int64_t column) { return (*values)[row * size + column]; };
  const Element transposed = [=](std::int64_t row, std::int64_t column) { return (*values)[column * size + row]; };
  return {.run = [=, &device] { ops::linear_forward(device, a, a, c); },
          .check = [=, &device] { check_last_row(device, c, element, transposed); },
          .flops = flops_of(size)};
}

}  // namespace

const std::vector<std::int64_t>& memory_ranges(Device::Kind kind) {
  static const std::vector<std::int64_t> of_cpu = ranges(std::int64_t{1} << 17, std::int64_t{1} << 29),
                                         of_gpu = ranges(std::int64_t{1} << 21, std::int64_t{1} << 31);
  return kind == Device::Kind::cpu ? of_cpu : of_gpu;
}

MemoryWork copy_work(Device& device, std::int64_t range) {
  const std::int64_t half = range / 2 / floats;
  const Tensor from = device.zeros({half}), to = device.zeros({half});
  if (device.kind() == Device::Kind::cuda)
    return {.run = [=, &device] { device.copy(from, to); }, .bytes = static_cast<double>(2 * half * floats)};
  return over_parts(device, half, [from, to](std::int64_t begin, std::int64_t end) {
    std::memcpy(to.f32() + begin, from.f32() + begin, static_cast<std::size_t>((end - begin) * floats));
  });
}

MemoryWork update_work(Device& device, std::int64_t range) {
  const std::int64_t n = range / floats;
  const Tensor x = device.zeros({n});
  if (device.kind() == Device::Kind::cuda)
    return {.run = [=, &device] { ops::scale(device, x, 2, x); }, .bytes = static_cast<double>(2 * n * floats)};
  return over_parts(device, n, [x](std::int64_t begin, std::int64_t end) {
    float* const values = x.f32();
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) values[i] += 1;
  });
}

const std::vector<std::int64_t>& matrix_sizes(Device::Kind kind) {
  static const std::vector<std::int64_t> of_cpu{256, 512, 1024}, of_gpu{2048, 4096, 8192};
  return kind == Device::Kind::cpu ? of_cpu : of_gpu;
}

const std::vector<DType>& matrix_types(Device::Kind kind) {
  static const std::vector<DType> of_cpu{DType::f32}, of_gpu{DType::f32, DType::bf16};
  return kind == Device::Kind::cpu ? of_cpu : of_gpu;
}

MatrixProduct matrix_products(Device& device, std::int64_t size, DType type) {
  return device.kind() == Device::Kind::cpu ? products_of_threads(device, size) : product_on_gpu(device, size, type);
}

double Floors::best_rate(Device& device, double amount, const std::function<void()>& work) const {
  work();
  communicator_.barrier("a floor");  // ranks that share a memory measure it together
  // A CPU's runs are timed one by one, so that the best is one without an interruption.
  const std::int64_t times =
      device.kind() == Device::Kind::cpu ? 1 : times_at_once(device, seconds_of(device, work, 1));
  double best = 0, spent = 0;
  for (int timings = 0; spent < time_of_a_floor || timings < least_timings; ++timings) {
    const double seconds = seconds_of(device, work, times);
    best = std::max(best, amount * static_cast<double>(times) / seconds);
    spent += seconds;
  }
  const std::vector<double> of_ranks = communicator_.all_gather(std::span(&best, 1), "a floor");
  return *std::ranges::min_element(of_ranks);
}

double Floors::bandwidth(double range) {
  if (bandwidths_.empty())
    for (const std::int64_t measured : memory_ranges(device_kind_))
      for (const auto make : {copy_work, update_work}) {
        Device device = apps::device_of(settings_, communicator_);
        const MemoryWork work = make(device, measured);
        double& best = bandwidths_[measured];
        best = std::max(best, best_rate(device, work.bytes, work.run));
      }
  auto above = bandwidths_.upper_bound(static_cast<std::int64_t>(range));
  if (above != bandwidths_.begin()) --above;
  return above->second;
}

double Floors::matrix_rate(DType type) {
  const std::vector<DType>& types = matrix_types(device_kind_);
  if (std::ranges::find(types, type) == types.end()) type = types.front();
  double& rate = matrix_rates_[type];
  if (rate == 0)
    for (const std::int64_t size : matrix_sizes(device_kind_)) {
      Device device = apps::device_of(settings_, communicator_);
      const MatrixProduct products = matrix_products(device, size, type);
      rate = std::max(rate, best_rate(device, products.flops, products.run));
    }
  return rate;
}

double Floors::time(const Amount& amount) {
  const double range = amount.range > 0 ? amount.range : amount.bytes;
  const double moving = amount.bytes > 0 ? amount.bytes / bandwidth(range) : 0;
  const double computing = amount.flops > 0 ? amount.flops / matrix_rate(amount.flops_type) : 0;
  return std::max(moving, computing);
}

}  // namespace mtp::bench
