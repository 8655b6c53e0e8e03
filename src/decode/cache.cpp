#include "mtp/decode/cache.h"

#include <algorithm>

#include "mtp/ops/rowwise.h"

namespace mtp::decode {

Cache::Cache(Device& device, const hf::TextConfig& config, std::int64_t positions, std::int64_t most_rows, DType dtype)
    : device_(device), positions_(positions), start_(device.zeros({1}, DType::i64)) {
  for (const hf::LayerShape& shape : config.layers) {
    Layer& layer = layers_.emplace_back();
    if (shape.shares_kv) continue;
    // The forward's last row must not take the place of what its first still sees.
    const std::int64_t held = shape.is_sliding ? std::min(positions, config.sliding_window + most_rows - 1) : positions;
    layer.key = device.empty({held, shape.kv_heads, shape.head_dim}, dtype);
    layer.value = device.empty({held, shape.kv_heads, shape.head_dim}, dtype);
  }
}

void Cache::keep(int layer, const KeyValue& rows) const {
  const Layer& held = layers_[static_cast<std::size_t>(layer)];
  ops::put_in_ring(device_, start_, rows.key.data, held.key);
  ops::put_in_ring(device_, start_, rows.value.data, held.value);
}

KeyValue Cache::ring(int layer) const {
  const Layer& held = layers_[static_cast<std::size_t>(layer)];
  return {{held.key}, {held.value}};
}

std::int64_t Cache::bytes() const {
  std::int64_t sum = 0;
  for (const Layer& layer : layers_)
    for (const Tensor& tensor : {layer.key, layer.value})
      if (!tensor.empty()) sum += tensor.elements() * static_cast<std::int64_t>(size_of(tensor.dtype()));
  return sum;
}

}  // namespace mtp::decode
