#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "cases.h"
#include "support/shapes.h"

namespace mtp::bench {

namespace {

/// Of what there is in a model.
struct Part {
  std::int64_t rows, length, vocabulary, experts = 0;
};

Sizes sizes(const std::string& preset, DType type, const Part& part) {
  const hf::Preset shape = find_shape(preset, {});
  const hf::DrafterConfig drafter = hf::parse_drafter_config(shape.drafter, preset);
  Sizes made{.name = preset,
             .type = type,
             .base = hf::parse_base_config(shape.base, preset).text,
             .drafter = drafter.text,
             .rows = part.rows,
             .length = part.length,
             .vocabulary = part.vocabulary,
             .experts = part.experts};
  if (drafter.use_ordered_embeddings) {
    made.centroids = drafter.num_centroids;
    made.top_k = drafter.centroid_intermediate_top_k;
  }
  return made;
}

}  // namespace

std::vector<Sizes> all_sizes(Device::Kind kind, DType type) {
  const bool on_gpu = kind == Device::Kind::cuda;
  const auto e4b = on_gpu ? Part{2048, 2048, 262144} : Part{128, 512, 32768};
  const auto dense_31b = on_gpu ? Part{1024, 2048, 262144} : Part{64, 512, 16384};
  const auto experts_26b = on_gpu ? Part{2048, 2048, 262144, 128} : Part{128, 512, 16384, 16};
  return {sizes("small", type, {512, 512, 4096}), sizes("17m", type, {512, 512, 8192}), sizes("e4b", type, e4b),
          sizes("26b-a4b", type, experts_26b), sizes("31b", type, dense_31b)};
}

bool is_fp32(const Sizes& sizes) { return sizes.type == DType::f32; }

Tensor random_tensor(Device& device, const Shape& shape, unsigned seed, float scale, DType type) {
  constexpr std::int64_t piece = std::int64_t{1} << 20;  // elements on the host at a time
  const Tensor tensor = device.empty(shape, type);
  std::minstd_rand generator(seed);
  const float step = 2 * scale / static_cast<float>(std::minstd_rand::max());
  for (std::int64_t begin = 0; begin < tensor.elements(); begin += piece) {
    std::vector<float> values(static_cast<std::size_t>(std::min(piece, tensor.elements() - begin)));
    for (float& value : values) value = static_cast<float>(generator()) * step - scale;
    const Shape part{static_cast<std::int64_t>(values.size())};
    device.copy(device.from_host(values, part, type), tensor.slice(begin, part));
  }
  return tensor;
}

std::vector<std::int64_t> random_ids(std::int64_t n, std::int64_t end, unsigned seed) {
  std::minstd_rand generator(seed);
  std::vector<std::int64_t> ids(static_cast<std::size_t>(n));
  for (std::int64_t& id : ids) id = static_cast<std::int64_t>(generator()) % end;
  return ids;
}

Values part(const Device& device, const Tensor& tensor, std::int64_t begin, std::int64_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  device.to_host(tensor.slice(begin, {count}), values);
  return {values.begin(), values.end()};
}

Values row(const Device& device, const Tensor& tensor, std::int64_t index) {
  return part(device, tensor, index * tensor.size(-1), tensor.size(-1));
}

std::vector<std::int64_t> sample(std::int64_t n) {
  constexpr std::int64_t few = 5;
  if (n > few) return {0, n / 3, n - 1};
  std::vector<std::int64_t> all(static_cast<std::size_t>(n));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

double dot(const Values& a, const Values& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

void expect_close(const std::string& what, const Values& actual, const Values& expected, Rounded rounded) {
  constexpr double of_fp32 = 1e-4, of_bf16 = 1.0 / 256;
  MTP_ASSERT(actual.size() == expected.size());
  double largest = 0.01;  // inputs are of order one: what is smaller has cancelled
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  const double same_for_all = (rounded.terms == DType::bf16 ? of_fp32 + of_bf16 : of_fp32) * largest;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double of_result = rounded.result == DType::bf16 ? of_bf16 * std::abs(expected[i]) : 0;
    if (!(std::abs(actual[i] - expected[i]) <= same_for_all + of_result))
      throw Error("{}: element {} of those checked is {}, it should be {}", what, i, actual[i], expected[i]);
  }
}

void expect_rows(const Device& device, const std::string& what, const Tensor& actual,
                 const std::function<Values(std::int64_t row)>& expected, DType terms) {
  for (const std::int64_t i : sample(actual.elements() / actual.size(-1)))
    expect_close(fmt::format("{}, row {}", what, i), row(device, actual, i), expected(i), {actual.dtype(), terms});
}

void expect_elements(const Device& device, const std::string& what, const Tensor& actual,
                     const std::function<double(std::int64_t i, std::int64_t j)>& expected) {
  Values found, wanted;
  for (const std::int64_t i : sample(actual.size(0)))
    for (const std::int64_t j : sample(actual.size(1))) {
      found.push_back(part(device, actual, i * actual.size(1) + j, 1)[0]);
      wanted.push_back(expected(i, j));
    }
  expect_close(what, found, wanted, {actual.dtype()});
}

double bytes_of(std::initializer_list<Tensor> tensors) {
  double bytes = 0;
  for (const Tensor& tensor : tensors)
    bytes += static_cast<double>(tensor.elements()) * static_cast<double>(size_of(tensor.dtype()));
  return bytes;
}

}  // namespace mtp::bench
