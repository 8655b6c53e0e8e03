#include "mtp/ops/optimizer.h"

#include "back_ends.h"

MTP_BACK_ENDS(adamw)
MTP_BACK_ENDS(sum_of_squares)

namespace mtp::ops {

namespace {

void check(const AdamWShard& shard) {
  const std::int64_t n = shard.weight.elements();
  const DType moments = shard.moment1.dtype();
  MTP_ASSERT(shard.gradient.elements() == n && shard.moment1.elements() == n && shard.moment2.elements() == n);
  MTP_ASSERT(shard.moment2.dtype() == moments && (moments == DType::f32 || moments == DType::bf16));
  MTP_ASSERT(shard.rounded_weight.empty() ||
             (shard.rounded_weight.elements() == n && shard.rounded_weight.dtype() == DType::bf16));
}

}  // namespace

void adamw(Device& device, const AdamW& adamw, std::span<const AdamWShard> shards) {
  for (const AdamWShard& shard : shards) check(shard);
  MTP_RUN(adamw, adamw, shards);
}

void sum_of_squares(Device& device, const Tensor& gradient, std::int64_t block, const Tensor& sums) {
  MTP_ASSERT(gradient.elements() == sums.elements() * block && sums.dtype() == DType::f64);
  MTP_RUN(sum_of_squares, gradient, block, sums);
}

}  // namespace mtp::ops
