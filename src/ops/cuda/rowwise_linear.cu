// Products of a few rows: a matter of reading the weights as fast as memory gives them.

#include <algorithm>

#include "../prepared.h"
#include "gelu.cuh"
#include "mtp/ops/rowwise.h"
#include "reduce.cuh"
#include "shared_memory.cuh"

namespace mtp::ops::cuda {

namespace {

constexpr int threads = 256;
constexpr int warps = threads / warp_size;
constexpr int elements = 8;                         // that a lane takes at a time
constexpr int chunk = warp_size * elements;         // that a warp takes at a time
constexpr int blocks_per_multiprocessor = 2;        // that registers allow for
constexpr std::int64_t most_staged = 96 << 10;      // bytes of shared memory for eight rows
constexpr std::int64_t warps_to_fill_a_gpu = 2048;  // on every GPU, so that the bits are the same

/// Eight elements as they are stored.
template <typename T>
struct Eight;

template <>
struct Eight<std::uint16_t> {  // bf16
  std::uint32_t pairs[4];

  Eight() = default;
  __device__ explicit Eight(const uint4& words) : pairs{words.x, words.y, words.z, words.w} {}
  __device__ static Eight load(const std::uint16_t* from) { return Eight(*reinterpret_cast<const uint4*>(from)); }
  /// Of what is read once: other data stays in the caches.
  __device__ static Eight load_once(const std::uint16_t* from) {
    return Eight(__ldcs(reinterpret_cast<const uint4*>(from)));
  }
  __device__ float operator[](int i) const {
    return __uint_as_float(i % 2 == 0 ? pairs[i / 2] << 16 : pairs[i / 2] & 0xFFFF0000u);
  }
};

template <>
struct Eight<float> {
  float values[elements];

  Eight() = default;
  __device__ Eight(const float4& low, const float4& high)
      : values{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w} {}
  __device__ static Eight load(const float* from) {
    const float4* const fours = reinterpret_cast<const float4*>(from);
    return Eight(fours[0], fours[1]);
  }
  __device__ static Eight load_once(const float* from) {
    const float4* const fours = reinterpret_cast<const float4*>(from);
    return Eight(__ldcs(fours), __ldcs(fours + 1));
  }
  __device__ float operator[](int i) const { return values[i]; }
};

/// Asks for a cache line that will be read soon.
__device__ inline void prefetch([[maybe_unused]] const void* address) {
#ifndef MTP_CUDA_EMULATION
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
#endif
}

/// RowwiseInput as a kernel sees it.
struct Input {
  std::int64_t rows, width;
  Elements x, residual, branch, branch_weight, weight;
  float factor, eps;
  bool has_branch, has_weight;

  __host__ __device__ bool is_staged() const { return has_branch || has_weight; }
};

enum class Kind { linear, gated, gate };
constexpr int most_matrices = 3;

/// The weights, and what becomes of the sums. The outputs of `linear` are those of one matrix after the other; of
/// `gated`, an output of `gate` and one of `up` in turn.
struct Work {
  Kind kind;
  std::int64_t outputs = 0;  // in all
  std::int64_t outputs_of[most_matrices] = {};
  const void* w[most_matrices] = {};
  Elements y[most_matrices] = {};
  Elements factors = {};

  /// Output `i`, among those of its matrix.
  struct Place {
    int matrix;
    std::int64_t row;
  };
  __device__ Place place(std::int64_t i) const {
    if (kind == Kind::gated) return {static_cast<int>(i % 2), i / 2};
    int matrix = 0;
    while (matrix + 1 < most_matrices && i >= outputs_of[matrix]) i -= outputs_of[matrix++];
    return {matrix, i};
  }
};

/// Sums of the block's threads, in a fixed order; every thread gets them.
template <int n>
__device__ void sum_over_block(float (&values)[n]) {
  __shared__ float of_warp[warps][n];
#pragma unroll
  for (int i = 0; i < n; ++i) {
    values[i] = reduce_warp(values[i], Sum());
    if (threadIdx.x % warp_size == 0) of_warp[threadIdx.x / warp_size][i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < n; ++i) {
    values[i] = of_warp[0][i];
    for (int warp = 1; warp < warps; ++warp) values[i] += of_warp[warp][i];
  }
  __syncthreads();  // before the next sums overwrite them
}

__device__ inline float rrms_of(float squares, const Input& in) {
  return 1.0f / sqrtf(squares / static_cast<float>(in.width) + in.eps);
}

/// Puts what is multiplied, rows first … of the input, into shared memory: every block for itself. A thread has the
/// same columns all along.
template <int rows>
__device__ void stage(const Input& in, std::int64_t first, Elements staged) {
  const auto row_begin = [&](int r) { return (first + r < in.rows ? first + r : in.rows - 1) * in.width; };
  const auto for_each_pack = [&](const auto& body) {
    for (std::int64_t i = threadIdx.x * elements; i < in.width; i += threads * elements) body(i);
  };
  if (in.has_branch) {
    float squares[rows] = {};
    for_each_pack([&](std::int64_t i) {
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const Pack<elements> pack = in.branch.load<elements>(row_begin(r) + i);
#pragma unroll
        for (int j = 0; j < elements; ++j) squares[r] += pack.values[j] * pack.values[j];
      }
    });
    sum_over_block(squares);
    for_each_pack([&](std::int64_t i) {
      const Pack<elements> weight = in.branch_weight.load<elements>(i);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        Pack<elements> sum = in.residual.load<elements>(row_begin(r) + i);
        const Pack<elements> branch = in.branch.load<elements>(row_begin(r) + i);
        const float rrms = rrms_of(squares[r], in);
#pragma unroll
        for (int j = 0; j < elements; ++j)
          sum.values[j] = in.x.rounded(sum.values[j] + branch.values[j] * rrms * weight.values[j]) * in.factor;
        staged.store<elements>(r * in.width + i, sum);
        const bool is_mine = blockIdx.x == 0 && first + r < in.rows;  // of all blocks that have computed it
        if (is_mine) in.x.store<elements>(row_begin(r) + i, sum);
      }
    });
  }
  if (in.has_weight) {
    const auto load = [&](int r, std::int64_t i) {
      return in.has_branch ? staged.load<elements>(r * in.width + i) : in.x.load<elements>(row_begin(r) + i);
    };
    float squares[rows] = {};
    for_each_pack([&](std::int64_t i) {
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        const Pack<elements> pack = load(r, i);
#pragma unroll
        for (int j = 0; j < elements; ++j) squares[r] += pack.values[j] * pack.values[j];
      }
    });
    sum_over_block(squares);
    for_each_pack([&](std::int64_t i) {
      const Pack<elements> weight = in.weight.load<elements>(i);
#pragma unroll
      for (int r = 0; r < rows; ++r) {
        Pack<elements> pack = load(r, i);
        const float rrms = rrms_of(squares[r], in);
#pragma unroll
        for (int j = 0; j < elements; ++j) pack.values[j] = pack.values[j] * rrms * weight.values[j];
        staged.store<elements>(r * in.width + i, pack);
      }
    });
  }
  __syncthreads();
}

/// What one lane does with the sums of a row.
template <int outputs>
__device__ void finish(const Work& work, std::int64_t row, std::int64_t begin, const float (&sums)[outputs]) {
  const auto gated = [](float gate, float factor) { return gelu(gate, gelu_tangent(gate)) * factor; };
#pragma unroll
  for (int o = 0; o < outputs; ++o) {
    if (begin + o >= work.outputs) return;
    const typename Work::Place place = work.place(begin + o);
    const Elements& y = work.y[place.matrix];
    const std::int64_t at = row * work.outputs_of[place.matrix] + place.row;
    if (work.kind == Kind::linear) {
      y.set(at, sums[o]);
    } else if (work.kind == Kind::gate) {
      y.set(at, gated(y.rounded(sums[o]), work.factors[at]));
    } else if constexpr (outputs % 2 == 0) {
      if (o % 2 == 0) y.set(at, gated(y.rounded(sums[o]), y.rounded(sums[o + 1])));
    }
  }
}

/// Blocks of a multiprocessor that registers must suffice for, where a thread has so many sums.
template <typename T>
constexpr int resident_blocks(int sums) {
  return sums * sizeof(T) > 40 ? 1 : blocks_per_multiprocessor;
}

/// `split` warps sum a group of outputs for all rows, each over every split-th chunk of the width; the first adds their
/// sums in order. Neither depends on the number of rows.
template <typename T, int rows, int outputs>
__global__ void __launch_bounds__(threads, resident_blocks<T>(rows* outputs))
    linear_kernel(const __grid_constant__ Input in, const __grid_constant__ Work work, int split) {
  __shared__ float sums_of_warp[warps][rows * outputs];
  const int lane = static_cast<int>(threadIdx.x % warp_size), warp = static_cast<int>(threadIdx.x / warp_size);
  const int part = warp % split, groups_of_block = warps / split;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * rows;
  const std::int64_t groups = (work.outputs + outputs - 1) / outputs;

  const auto weights_of = [&](std::int64_t output) {
    const typename Work::Place place = work.place(output < work.outputs ? output : work.outputs - 1);
    return static_cast<const T*>(work.w[place.matrix]) + place.row * in.width;
  };
  std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * groups_of_block;
  const T* x = static_cast<const T*>(in.x.data()) + first * in.width;
  int last_row = rows - 1;
  if (in.is_staged()) {
    // The first weights are on their way meanwhile: a lane asks for one of eight lines of an output.
    constexpr int lines = warp_size / outputs < 8 ? warp_size / outputs : 8, line = 128 / sizeof(T);
    const std::int64_t at = static_cast<std::int64_t>(part) * chunk + lane % lines * line;
    if (lane / lines < outputs && at < in.width)
      prefetch(weights_of((begin + warp / split) * outputs + lane / lines) + at);
    T* const staged = shared_memory<T>();
    stage<rows>(in, first, Elements(staged, in.x));
    x = staged;
  } else if (first + rows > in.rows) {
    last_row = static_cast<int>(in.rows - first) - 1;  // read again in place of those that are not there
  }

  for (; begin < groups; begin += static_cast<std::int64_t>(gridDim.x) * groups_of_block) {
    const std::int64_t group = begin + warp / split;
    float sums[rows][outputs] = {};
    if (group < groups) {
      const T* w[outputs];
#pragma unroll
      for (int o = 0; o < outputs; ++o) w[o] = weights_of(group * outputs + o);
      for (std::int64_t i = part * chunk + lane * elements; i < in.width; i += split * chunk) {
        Eight<T> weights[outputs];
#pragma unroll
        for (int o = 0; o < outputs; ++o) weights[o] = Eight<T>::load_once(w[o] + i);
#pragma unroll
        for (int r = 0; r < rows; ++r) {
          const Eight<T> values = Eight<T>::load(x + (r < last_row ? r : last_row) * in.width + i);
#pragma unroll
          for (int j = 0; j < elements; ++j)
#pragma unroll
            for (int o = 0; o < outputs; ++o) sums[r][o] = fmaf(values[j], weights[o][j], sums[r][o]);
        }
      }
#pragma unroll
      for (int r = 0; r < rows; ++r)
#pragma unroll
        for (int o = 0; o < outputs; ++o) sums[r][o] = reduce_warp(sums[r][o], Sum());
    }
    if (split > 1) {
      if (lane == 0)
#pragma unroll
        for (int i = 0; i < rows * outputs; ++i) sums_of_warp[warp][i] = sums[i / outputs][i % outputs];
      __syncthreads();
      if (part == 0)
        for (int other = 1; other < split; ++other)
#pragma unroll
          for (int i = 0; i < rows * outputs; ++i) sums[i / outputs][i % outputs] += sums_of_warp[warp + other][i];
      __syncthreads();  // before the next group overwrites them
    }
    if (part == 0 && group < groups) {
#pragma unroll
      for (int r = 0; r < rows; ++r)
        if (lane == r && first + r < in.rows) finish<outputs>(work, first + r, group * outputs, sums[r]);
    }
  }
}

/// What a kernel computes, and how many rows at a time.
struct Kernel {
  void (*run)(Input, Work, int);
  int rows;
};
template <typename T, int outputs>
Kernel kernel_for(std::int64_t rows) {
  if (rows == 1) return {linear_kernel<T, 1, outputs>, 1};
  if (rows == 2) return {linear_kernel<T, 2, outputs>, 2};
  if (rows == 3) return {linear_kernel<T, 3, outputs>, 3};
  if (rows <= 5) return {linear_kernel<T, 5, outputs>, 5};
  return {linear_kernel<T, 8, outputs>, 8};
}

template <typename T, int outputs>
void run(Device& device, const Input& in, const Work& work) {
  const std::int64_t groups = ceil_div(work.outputs, outputs), chunks = ceil_div(in.width, chunk);
  int split = 1;
  while (split < warps && 2 * split <= chunks && groups * split < warps_to_fill_a_gpu) split *= 2;
  const Kernel kernel = kernel_for<T, outputs>(in.rows);
  std::int64_t grid = ceil_div(groups, warps / split);
  // A block that has prepared its input goes on to use it.
  if (in.is_staged())
    grid = std::min<std::int64_t>(grid, blocks_per_multiprocessor * device.context().multiprocessors());
  const std::size_t staged = in.is_staged() ? kernel.rows * in.width * sizeof(T) : 0;
  mtp::launch(device, kernel.run, dim3(blocks(grid), blocks(ceil_div(in.rows, kernel.rows))), threads, staged, in, work,
              split);
}

/// Few outputs are summed one by one, so that there are enough warps.
constexpr std::int64_t least_outputs_of_groups = 2048;

/// False where this kernel cannot: rows that are not aligned, or types that differ.
bool run(Device& device, const RowwiseInput& x, Work work, const std::vector<Tensor>& w) {
  const std::int64_t width = x.x.size(1);
  if (width % elements != 0) return false;
  for (const Tensor& tensor : w)
    if (!is_packed({}, {&tensor}) || tensor.dtype() != x.x.dtype()) return false;
  if (!is_packed({}, {&x.x, &x.residual, &x.branch, &x.branch_weight, &x.weight})) return false;
  for (std::size_t i = 0; i < w.size(); ++i) {
    work.w[i] = w[i].data<void>();
    work.outputs_of[i] = w[i].size(0);
    work.outputs += w[i].size(0);
  }
  RowwiseInput own = x;
  const bool fits = 8 * width * static_cast<std::int64_t>(size_of(x.x.dtype())) <= most_staged;
  if (!fits && !(x.branch.empty() && x.weight.empty())) own = RowwiseInput(prepared(device, x));
  const Input in{.rows = x.x.size(0),
                 .width = width,
                 .x = Elements(own.x),
                 .residual = Elements(own.residual),
                 .branch = Elements(own.branch),
                 .branch_weight = Elements(own.branch_weight),
                 .weight = Elements(own.weight),
                 .factor = own.factor,
                 .eps = own.norm.eps,
                 .has_branch = !own.branch.empty(),
                 .has_weight = !own.weight.empty()};
  const bool one_by_one = work.kind != Kind::gated && work.outputs < least_outputs_of_groups;
  if (x.x.dtype() == DType::bf16)
    one_by_one ? run<std::uint16_t, 1>(device, in, work) : run<std::uint16_t, 4>(device, in, work);
  else
    one_by_one ? run<float, 1>(device, in, work) : run<float, 4>(device, in, work);
  return true;
}

/// Of any width: a warp computes an output of a row.
__global__ void any_width_kernel(std::int64_t outputs, std::int64_t width, Elements x, Elements w, Elements y) {
  const std::int64_t output = static_cast<std::int64_t>(blockIdx.x) * warps + threadIdx.x / warp_size;
  const std::int64_t row = blockIdx.y;
  if (output >= outputs) return;
  float sum = 0;
  for (std::int64_t i = threadIdx.x % warp_size; i < width; i += warp_size)
    sum = fmaf(x[row * width + i], w[output * width + i], sum);
  sum = reduce_warp(sum, Sum());
  if (threadIdx.x % warp_size == 0) y.set(row * outputs + output, sum);
}

void linear_of_any_width(Device& device, const Tensor& x, const Tensor& w, const Tensor& y) {
  const std::int64_t outputs = w.size(0), width = w.size(1);
  launch(device, any_width_kernel, dim3(blocks(ceil_div(outputs, warps)), blocks(x.size(0))), threads, outputs, width,
         Elements(x), Elements(w), Elements(y));
}

}  // namespace

void rowwise_linear(Device& device, const RowwiseInput& x, const std::vector<Tensor>& w, const std::vector<Tensor>& y) {
  Work work{.kind = Kind::linear};
  for (std::size_t i = 0; i < w.size(); ++i) work.y[i] = Elements(y[i]);
  if (run(device, x, work, w)) return;
  const Tensor in = prepared(device, x);
  for (std::size_t i = 0; i < w.size(); ++i) linear_of_any_width(device, in, w[i], y[i]);
}

void rowwise_gated_linear(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& up,
                          const Tensor& y) {
  Work work{.kind = Kind::gated};
  work.y[0] = Elements(y);
  if (run(device, x, work, {gate, up})) return;
  const Tensor in = prepared(device, x), factors = device.empty(y.shape(), y.dtype());
  linear_of_any_width(device, in, up, factors);
  rowwise_gate(device, in, gate, factors, y);
}

void rowwise_gate(Device& device, const RowwiseInput& x, const Tensor& gate, const Tensor& factors, const Tensor& y) {
  Work work{.kind = Kind::gate};
  work.y[0] = Elements(y);
  work.factors = Elements(factors);
  if (run(device, x, work, {gate})) return;
  const Tensor gates = device.empty(y.shape(), y.dtype());
  linear_of_any_width(device, prepared(device, x), gate, gates);
  gated_gelu_forward(device, gates, factors, y);
}

}  // namespace mtp::ops::cuda
