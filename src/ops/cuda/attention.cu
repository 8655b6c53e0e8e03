// Which kernels compute attention: those on tensor cores for bf16 in the head sizes they are made for, else the plain
// ones.

#include "attention.cuh"

namespace mtp::ops::cuda {

namespace {

bool is_for_tensor_cores(const Tensor& q) {
  const std::int64_t width = q.size(2);
  return q.dtype() == DType::bf16 && (width == 64 || width == 128 || width == 256 || width == 512);
}

/// A warp per row and head.
__global__ void mean_kernel(AttentionShape shape, Elements dout, Elements out, float* mean) {
  const std::int64_t task =
      static_cast<std::int64_t>(blockIdx.x) * (attention_threads / warp_size) + threadIdx.x / warp_size;
  const std::int64_t row = task / shape.heads, h = task % shape.heads, begin = task * shape.width;
  if (row >= shape.rows) return;
  float sum = 0;
  for (std::int64_t i = threadIdx.x % warp_size; i < shape.width; i += warp_size)
    sum += dout[begin + i] * out[begin + i];
  sum = reduce_warp(sum, Sum());
  if (threadIdx.x % warp_size == 0) mean[h * shape.rows + row] = sum;
}

}  // namespace

void attention_forward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& q,
                       const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  (is_for_tensor_cores(q) ? mma_attention_forward : plain_attention_forward)(device, mask, sequences, q, k, v, out,
                                                                             lse);
}

void attention_backward(Device& device, const AttentionMask& mask, const Sequences& sequences, const Tensor& dout,
                        const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse,
                        const Tensor& dq, const Tensor& dk, const Tensor& dv) {
  const AttentionShape shape = shape_of(q, k);
  const Tensor mean = device.empty({shape.heads, shape.rows});
  launch(device, mean_kernel, blocks(ceil_div(shape.rows * shape.heads, attention_threads / warp_size)),
         attention_threads, shape, Elements(dout), Elements(out), mean.f32());
  (is_for_tensor_cores(q) ? mma_attention_backward : plain_attention_backward)(device, mask, sequences, dout, q, k, v,
                                                                               mean, lse, dq, dk, dv);
}

}  // namespace mtp::ops::cuda
