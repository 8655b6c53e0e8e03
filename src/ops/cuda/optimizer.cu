#include "mtp/ops/optimizer.h"

#include <algorithm>
#include <memory>
#include <type_traits>

#include "../adamw.h"
#include "moment_stream.h"
#include "mtp/tensor/bfloat16.h"
#include "reduce.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;

using Bf16Bits = std::uint16_t;

// A thread takes four elements that lie side by side, 16 bytes of fp32: so a warp's accesses are whole lines, of bf16
// too, and a block of random words serves one thread.

template <int n>
__device__ Pack<n> load(const float* from) {
  if constexpr (n == 1) {
    return {{*from}};
  } else {
    const float4 four = *reinterpret_cast<const float4*>(from);
    return {{four.x, four.y, four.z, four.w}};
  }
}

template <int n>
__device__ Pack<n> load(const Bf16Bits* from) {
  const auto lower = [](std::uint32_t bits) { return __uint_as_float(bits << 16); };
  const auto upper = [](std::uint32_t bits) { return __uint_as_float(bits & 0xFFFF0000u); };
  if constexpr (n == 1) {
    return {{lower(*from)}};
  } else {
    const uint2 pairs = *reinterpret_cast<const uint2*>(from);
    return {{lower(pairs.x), upper(pairs.x), lower(pairs.y), upper(pairs.y)}};
  }
}

template <int n>
__device__ void store(float* to, const Pack<n>& pack) {
  if constexpr (n == 1)
    *to = pack.values[0];
  else
    *reinterpret_cast<float4*>(to) = float4{pack.values[0], pack.values[1], pack.values[2], pack.values[3]};
}

template <int n>
__device__ void store(Bf16Bits* to, const Bf16Bits (&bits)[n]) {
  if constexpr (n == 1)
    *to = bits[0];
  else
    *reinterpret_cast<uint2*>(to) =
        uint2{bits[0] | static_cast<std::uint32_t>(bits[1]) << 16, bits[2] | static_cast<std::uint32_t>(bits[3]) << 16};
}

/// The random words of elements `first` …: with n = 4 of a whole block.
template <int n>
struct Words {
  std::uint32_t values[n];

  __device__ Words(const Random& random, std::int64_t first) {
    const auto block = random.block(static_cast<std::uint64_t>(first) / 4);
    if constexpr (n == 4) {
#pragma unroll
      for (int j = 0; j < 4; ++j) values[j] = block[j];
    } else {
      const int place = static_cast<int>(first % 4);  // chosen by comparisons: registers cannot be indexed
      values[0] = place == 0 ? block[0] : place == 1 ? block[1] : place == 2 ? block[2] : block[3];
    }
  }
};

template <typename Moment>
struct Pointers {
  const float* gradient;
  float* weight;
  Moment *moment1, *moment2;
  Bf16Bits* rounded_weight;
};

template <int n, typename Moment, bool rounds_weight>
__global__ void adamw_kernel(std::int64_t elements, AdamWCoefficients c, Pointers<Moment> to, Random random,
                             std::int64_t first) {
  const std::int64_t i = (static_cast<std::int64_t>(blockIdx.x) * threads + threadIdx.x) * n;
  if (i >= elements) return;
  const Pack<n> g = load<n>(to.gradient + i);
  Pack<n> w = load<n>(to.weight + i), m = load<n>(to.moment1 + i), v = load<n>(to.moment2 + i);
#pragma unroll
  for (int j = 0; j < n; ++j) {
    const float scaled = g.values[j] * c.factor;
    m.values[j] += c.keep1 * (scaled - m.values[j]);
    v.values[j] = v.values[j] * c.beta2 + c.keep2 * scaled * scaled;
    w.values[j] = w.values[j] * c.decay + c.step_size * m.values[j] / (sqrtf(v.values[j]) / c.root_correction + c.eps);
  }
  store(to.weight + i, w);
  if constexpr (std::is_same_v<Moment, float>) {
    store(to.moment1 + i, m);
    store(to.moment2 + i, v);
  } else {
    const Words<n> words(random, first + i);
    Bf16Bits m_bits[n], v_bits[n];
#pragma unroll
    for (int j = 0; j < n; ++j) {
      m_bits[j] = rounded_at_random(m.values[j], words.values[j]);
      v_bits[j] = rounded_at_random(v.values[j], words.values[j] >> 16);
    }
    store(to.moment1 + i, m_bits);
    store(to.moment2 + i, v_bits);
  }
  if constexpr (rounds_weight) {
    Bf16Bits bits[n];
#pragma unroll
    for (int j = 0; j < n; ++j) bits[j] = BFloat16(w.values[j]).bits;
    store(to.rounded_weight + i, bits);
  }
}

__global__ void sum_of_squares_kernel(std::int64_t block, const float* gradient, double* sums) {
  const float* const g = gradient + blockIdx.x * block;
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < block; i += threads) sum += static_cast<double>(g[i]) * g[i];
  sum = reduce_block(sum, Sum());
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <int n, typename Moment, bool rounds_weight>
void launch_adamw(Device& device, const AdamWCoefficients& c, const AdamWShard& shard) {
  const std::int64_t elements = shard.weight.elements();
  const Pointers<Moment> pointers{.gradient = shard.gradient.f32(),
                                  .weight = shard.weight.f32(),
                                  .moment1 = shard.moment1.data<Moment>(),
                                  .moment2 = shard.moment2.data<Moment>(),
                                  .rounded_weight = shard.rounded_weight.data<Bf16Bits>()};
  launch(device, adamw_kernel<n, Moment, rounds_weight>, blocks(ceil_div(elements, threads * n)), threads, elements, c,
         pointers, shard.random, shard.first);
}

/// True where kernels may take four elements at a time.
bool takes_fours(const AdamWShard& shard) {
  const auto is_aligned = [](const Tensor& tensor) {
    return reinterpret_cast<std::uintptr_t>(tensor.data<void>()) % (4 * size_of(tensor.dtype())) == 0;
  };
  return shard.weight.elements() % 4 == 0 && shard.first % 4 == 0 && is_aligned(shard.gradient) &&
         is_aligned(shard.weight) && is_aligned(shard.moment1) && is_aligned(shard.moment2) &&
         is_aligned(shard.rounded_weight);
}

/// body(constant) with the constant true or false.
template <typename Body>
void with_constant(bool value, const Body& body) {
  if (value)
    body(std::true_type());
  else
    body(std::false_type());
}

/// Moments on the device.
void update(Device& device, const AdamWCoefficients& c, const AdamWShard& shard) {
  with_constant(takes_fours(shard), [&](auto fours) {
    with_constant(shard.moment1.dtype() == DType::bf16, [&](auto bf16) {
      with_constant(!shard.rounded_weight.empty(), [&](auto rounds_weight) {
        using Moment = std::conditional_t<bf16(), Bf16Bits, float>;
        launch_adamw<fours() ? 4 : 1, Moment, rounds_weight()>(device, c, shard);
      });
    });
  });
}

/// Elements begin … of a shard.
AdamWShard part(const AdamWShard& shard, std::int64_t begin, std::int64_t elements) {
  const auto of = [&](const Tensor& tensor) { return tensor.empty() ? tensor : tensor.slice(begin, {elements}); };
  return {.gradient = of(shard.gradient),
          .weight = of(shard.weight),
          .moment1 = of(shard.moment1),
          .moment2 = of(shard.moment2),
          .rounded_weight = of(shard.rounded_weight),
          .random = shard.random,
          .first = shard.first + begin};
}

void update_from_host(Device& device, const AdamWCoefficients& c, const AdamWShard& shard, MomentStream& stream) {
  const std::int64_t elements = shard.weight.elements();
  for (std::int64_t begin = 0; begin < elements; begin += MomentStream::piece) {
    const AdamWShard there = part(shard, begin, std::min(MomentStream::piece, elements - begin));
    stream.pass(there.moment1, there.moment2, [&](const Tensor& moment1, const Tensor& moment2) {
      AdamWShard here = there;
      here.moment1 = moment1;
      here.moment2 = moment2;
      update(device, c, here);
    });
  }
}

}  // namespace

void adamw(Device& device, const AdamW& adamw, std::span<const AdamWShard> shards) {
  const AdamWCoefficients c = coefficients_of(adamw);
  std::unique_ptr<MomentStream> stream;
  for (const AdamWShard& shard : shards) {
    if (!shard.moments_on_host) {
      update(device, c, shard);
      continue;
    }
    if (stream == nullptr) stream = std::make_unique<MomentStream>(device, shard.moment1.dtype());
    update_from_host(device, c, shard, *stream);
  }
  if (stream != nullptr) stream->finish();
}

void sum_of_squares(Device& device, const Tensor& gradient, std::int64_t block, const Tensor& sums) {
  launch(device, sum_of_squares_kernel, blocks(sums.elements()), threads, block, gradient.f32(), sums.data<double>());
}

}  // namespace mtp::ops::cuda
