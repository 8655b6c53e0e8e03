#include "support/floors.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

namespace mtp::bench {

namespace {

using Clock = std::chrono::steady_clock;

constexpr double time_of_a_floor = 0.1;  // seconds; the best run of that time counts
constexpr int least_runs = 3;

}  // namespace

const std::vector<std::int64_t>& copy_sizes() {
  static const std::vector<std::int64_t> sizes = [] {
    std::vector<std::int64_t> all;
    for (std::int64_t bytes = std::int64_t{1} << 17; bytes <= std::int64_t{1} << 29; bytes *= 4) all.push_back(bytes);
    return all;
  }();
  return sizes;
}

std::function<void()> copy_work(Device& device, std::int64_t bytes) {
  const std::int64_t half = bytes / 2, threads = device.threads().threads();
  const Tensor from = device.zeros({half / 4}), to = device.zeros({half / 4});
  return [&device, half, threads, from, to] {
    device.threads().run(threads, [&](std::int64_t i) {
      const std::int64_t begin = half * i / threads, end = half * (i + 1) / threads;
      std::memcpy(to.data<std::byte>() + begin, from.data<std::byte>() + begin, static_cast<std::size_t>(end - begin));
    });
  };
}

const std::vector<std::int64_t>& matrix_sizes() {
  static const std::vector<std::int64_t> sizes{256, 512, 1024};
  return sizes;
}

MatrixProduct matrix_products(Device& device, std::int64_t size) {
  std::vector<float> values(static_cast<std::size_t>(size * size));
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3;
  const std::int64_t threads = device.threads().threads();
  const Tensor a = device.from_host(values, {size, size}), c = device.empty({threads, size, size});
  const auto n = static_cast<double>(size);
  return {.run =
              [=, &device] {
                device.threads().run(threads, [&](std::int64_t i) {
                  omp_set_num_threads(1);  // each product has one thread
                  dnnl_sgemm('n', 'n', size, size, size, 1, a.f32(), size, a.f32(), size, 0, c.f32() + i * size * size,
                             size);
                });
              },
          .check =
              [=, &device] {
                std::vector<float> last(static_cast<std::size_t>(size));
                device.to_host(c.slice((threads * size - 1) * size, {size}), last);
                for (std::int64_t j = 0; j < size; ++j) {
                  double sum = 0;  // of small integers: exact in fp32 too
                  for (std::int64_t k = 0; k < size; ++k) sum += values[(size - 1) * size + k] * values[k * size + j];
                  if (last[j] != sum) throw Error("matrix product: element {} is {}, it should be {}", j, last[j], sum);
                }
              },
          .flops = 2 * n * n * n * static_cast<double>(threads)};
}

double Floors::best_rate(double amount, const std::function<void()>& work) const {
  work();
  communicator_.barrier("a floor");  // ranks that share a memory measure it together
  double best = 0, spent = 0;
  for (int runs = 0; spent < time_of_a_floor || runs < least_runs; ++runs) {
    const auto start = Clock::now();
    work();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, amount / seconds);
    spent += seconds;
  }
  const std::vector<double> of_ranks = communicator_.all_gather(std::span(&best, 1), "a floor");
  return *std::ranges::min_element(of_ranks);
}

double Floors::copy_bandwidth(double bytes) {
  if (copy_bandwidths_.empty())
    for (const std::int64_t size : copy_sizes()) {
      Device device(threads_);
      copy_bandwidths_[size] = best_rate(static_cast<double>(size), copy_work(device, size));
    }
  auto above = copy_bandwidths_.upper_bound(static_cast<std::int64_t>(bytes));
  if (above != copy_bandwidths_.begin()) --above;
  return above->second;
}

double Floors::matrix_rate() {
  if (!matrix_rate_) {
    matrix_rate_ = 0;
    for (const std::int64_t size : matrix_sizes()) {
      Device device(threads_);
      const MatrixProduct products = matrix_products(device, size);
      matrix_rate_ = std::max(*matrix_rate_, best_rate(products.flops, products.run));
    }
  }
  return *matrix_rate_;
}

double Floors::time(double bytes, double flops) {
  const double moving = bytes > 0 ? bytes / copy_bandwidth(bytes) : 0;
  const double computing = flops > 0 ? flops / matrix_rate() : 0;
  return std::max(moving, computing);
}

}  // namespace mtp::bench
