#pragma once

#include <cstdint>
#include <vector>

#include "mtp/graph/value.h"
#include "mtp/hf/config.h"
#include "mtp/tensor/device.h"

namespace mtp::decode {

/// Keys and values of the positions of one text that were computed so far, for the layers that have their own. A ring
/// per layer holds position j in row j mod its rows: all positions on full layers; on sliding ones as many as their
/// window and the rows of one forward need. Rows that are computed again, after others were rejected, take their place.
class Cache {
 public:
  /// `positions`: of the whole text; `most_rows`: of any forward but the first.
  Cache(Device& device, const hf::TextConfig& config, std::int64_t positions, std::int64_t most_rows, DType dtype);

  /// Keeps keys and values of the text's first rows, of a layer that has its own.
  void keep(int layer, const KeyValue& rows) const;
  /// What later rows attend to, and put theirs in.
  KeyValue ring(int layer) const;

  /// Positions that full layers have room for.
  std::int64_t positions() const { return positions_; }
  std::int64_t bytes() const;

 private:
  struct Layer {
    Tensor key, value;  // [positions held, kv_heads, d]; empty where the layer shares
  };

  Device& device_;
  std::int64_t positions_;
  Tensor start_;  // the first position
  std::vector<Layer> layers_;
};

}  // namespace mtp::decode
