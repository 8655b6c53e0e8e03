#include "mtp/decode/cache.h"

#include <algorithm>

namespace mtp::decode {

namespace {

/// Puts the row of position `first` + i into row (first + i) mod n of the ring, for the last n rows.
void put(const Device& device, const Tensor& rows, std::int64_t first, const Tensor& ring) {
  const std::int64_t n = ring.size(0), width = ring.size(1) * ring.size(2);
  for (std::int64_t i = std::max<std::int64_t>(0, rows.size(0) - n); i < rows.size(0);) {
    const std::int64_t row = (first + i) % n, count = std::min(n - row, rows.size(0) - i);
    device.copy(rows.slice(i * width, {count, width}), ring.slice(row * width, {count, width}));
    i += count;
  }
}

}  // namespace

Cache::Cache(Device& device, const hf::TextConfig& config, std::int64_t positions, std::int64_t most_rows)
    : device_(device) {
  for (const hf::LayerShape& shape : config.layers) {
    Layer& layer = layers_.emplace_back();
    if (shape.shares_kv) continue;
    // The forward's last row must not take the place of what its first still sees.
    const std::int64_t held = shape.is_sliding ? std::min(positions, config.sliding_window + most_rows - 1) : positions;
    layer.key = device.empty({held, shape.kv_heads, shape.head_dim});
    layer.value = device.empty({held, shape.kv_heads, shape.head_dim});
  }
}

model::KeyValue Cache::extend(int layer, const model::KeyValue& rows, const ops::Sequences& sequences) {
  MTP_ASSERT(sequences.count() == 1);
  const Layer& held = layers_[static_cast<std::size_t>(layer)];
  put(device_, rows.key.data, sequences.first(), held.key);
  put(device_, rows.value.data, sequences.first(), held.value);
  if (sequences.first() == 0) return rows;
  return {{held.key, nullptr}, {held.value, nullptr}};
}

std::int64_t Cache::bytes() const {
  std::int64_t sum = 0;
  for (const Layer& layer : layers_)
    for (const Tensor& tensor : {layer.key, layer.value})
      if (!tensor.empty()) sum += tensor.elements() * static_cast<std::int64_t>(size_of(tensor.dtype()));
  return sum;
}

}  // namespace mtp::decode
