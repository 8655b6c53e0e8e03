#pragma once

#include <cstdint>
#include <vector>

#include "mtp/graph/value.h"
#include "mtp/hf/config.h"
#include "mtp/tensor/device.h"

namespace mtp::decode {

/// Keys and values of the positions of some texts that were computed so far, for the layers that have their own. A ring
/// per text and layer holds position j in row j mod its rows: all positions on full layers; on sliding ones as many as
/// their window and the rows of one forward need. Rows that are computed again, after others were rejected, take their
/// place; so do those of a new text in place of an old one.
class Cache {
 public:
  struct Size {
    std::int64_t texts = 1;      // at a time
    std::int64_t positions = 0;  // of a whole text
    std::int64_t most_rows = 1;  // of a text in any forward but its first
  };
  Cache(Device& device, const hf::TextConfig& config, const Size& size, DType dtype);

  /// Makes room for texts of so many positions. What is held stays; `rings` are others then.
  void reserve(std::int64_t positions);

  /// Keeps keys and values of a text's first rows, of a layer that has its own.
  void keep(int layer, std::int64_t text, const KeyValue& rows) const;
  /// What later rows attend to, and put theirs in.   [texts, positions held, kv_heads, d]
  KeyValue rings(int layer) const;

  /// Of a text, that full layers have room for.
  std::int64_t positions() const { return size_.positions; }
  std::int64_t bytes() const;

 private:
  struct Layer {
    hf::LayerShape shape;
    std::int64_t window;          // rows of a sliding layer that are enough
    Tensor key = {}, value = {};  // empty where the layer shares
  };
  /// Rings of a layer with room for so many positions of every text.
  Tensor rings_for(const Layer& layer, std::int64_t positions) const;
  void move(const Tensor& from, const Tensor& to) const;

  Device& device_;
  Size size_;
  DType dtype_;
  std::vector<Layer> layers_;
};

}  // namespace mtp::decode
