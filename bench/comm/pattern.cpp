#include "pattern.h"

#include <algorithm>
#include <vector>

#include "mtp/core/error.h"

namespace mtp::bench {

float pattern(std::int64_t rank, std::int64_t element) { return static_cast<float>((rank * 7 + element * 3) % 61); }

Tensor filled(Device& device, std::int64_t n, const std::function<float(std::int64_t element)>& value) {
  constexpr std::int64_t piece = std::int64_t{1} << 20;  // elements on the host at a time
  const Tensor tensor = device.empty({n});
  for (std::int64_t begin = 0; begin < n; begin += piece) {
    std::vector<float> values;
    for (std::int64_t i = begin; i < std::min(n, begin + piece); ++i) values.push_back(value(i));
    const Shape shape{static_cast<std::int64_t>(values.size())};
    device.copy(device.from_host(values, shape), tensor.slice(begin, shape));
  }
  return tensor;
}

void expect(const Device& device, const char* what, const Tensor& tensor,
            const std::function<float(std::int64_t element)>& value) {
  constexpr std::int64_t samples = 1000;
  const std::int64_t n = tensor.elements(), stride = std::max<std::int64_t>(1, n / samples);
  for (std::int64_t i = n - 1; i >= 0; i -= stride) {
    float found = 0;
    device.to_host(tensor.slice(i, {1}), std::span(&found, 1));
    if (found != value(i)) throw Error("{}: element {} is {}, it should be {}", what, i, found, value(i));
  }
}

}  // namespace mtp::bench
