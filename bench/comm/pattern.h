#pragma once

#include <cstdint>
#include <functional>

#include "mtp/tensor/device.h"

namespace mtp::bench {

/// What the benchmarks of communication send: small integers, whose sums are exact, as a function of the element's
/// place and of who sends it.
float pattern(std::int64_t rank, std::int64_t element);

/// [n], of which element i is value(i).
Tensor filled(Device& device, std::int64_t n, const std::function<float(std::int64_t element)>& value);

/// Throws Error where a sample of elements is not value(i): `what` names the result.
void expect(const Device& device, const char* what, const Tensor& tensor,
            const std::function<float(std::int64_t element)>& value);

}  // namespace mtp::bench
