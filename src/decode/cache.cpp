#include "mtp/decode/cache.h"

#include <algorithm>

#include "mtp/ops/rowwise.h"

namespace mtp::decode {

Cache::Cache(Device& device, const hf::TextConfig& config, const Size& size, DType dtype)
    : device_(device), size_(size), dtype_(dtype) {
  for (const hf::LayerShape& shape : config.layers) {
    // The forward's last row must not take the place of what its first still sees.
    Layer& layer = layers_.emplace_back(Layer{.shape = shape, .window = config.sliding_window + size.most_rows - 1});
    if (shape.shares_kv) continue;
    layer.key = rings_for(layer, size.positions);
    layer.value = rings_for(layer, size.positions);
  }
}

void Cache::reserve(std::int64_t positions) {
  if (positions <= size_.positions) return;
  for (Layer& layer : layers_)
    for (Tensor* rings : {&layer.key, &layer.value}) {
      if (rings->empty()) continue;
      const Tensor larger = rings_for(layer, positions);
      if (larger.shape() == rings->shape()) continue;
      move(*rings, larger);
      *rings = larger;
    }
  size_.positions = positions;
}

Tensor Cache::rings_for(const Layer& layer, std::int64_t positions) const {
  const std::int64_t held = layer.shape.is_sliding ? std::min(positions, layer.window) : positions;
  return device_.empty({size_.texts, held, layer.shape.kv_heads, layer.shape.head_dim}, dtype_);
}

/// Rings that grow have held all positions of their texts, each in the row of its number.
void Cache::move(const Tensor& from, const Tensor& to) const {
  const std::int64_t width = from.size(2) * from.size(3);
  for (std::int64_t text = 0; text < size_.texts; ++text)
    device_.copy(from.slice(text * from.size(1) * width, {from.size(1), width}),
                 to.slice(text * to.size(1) * width, {from.size(1), width}));
}

void Cache::keep(int layer, std::int64_t text, const KeyValue& rows) const {
  const Layer& held = layers_[static_cast<std::size_t>(layer)];
  const auto put = [&](const Tensor& first_rows, const Tensor& rings) {
    const Shape ring{rings.size(1), rings.size(2), rings.size(3)};
    ops::put_in_ring(device_, first_rows, rings.slice(text * num_elements(ring), ring));
  };
  put(rows.key.data, held.key);
  put(rows.value.data, held.value);
}

KeyValue Cache::rings(int layer) const {
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
