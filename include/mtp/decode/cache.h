#pragma once

#include <cstdint>
#include <vector>

#include "mtp/hf/config.h"
#include "mtp/model/decoder_layer.h"
#include "mtp/tensor/device.h"

namespace mtp::decode {

/// Keys and values of the positions of one text that were computed so far, for the layers that have their own. A ring
/// per layer holds position j in row j mod its rows: all positions on full layers; on sliding ones as many as their
/// window and the rows of one forward need. Rows that are computed again, after others were rejected, take their place.
class Cache final : public model::KeyValueCache {
 public:
  /// `positions`: of the whole text; `most_rows`: of any forward but the first.
  Cache(Device& device, const hf::TextConfig& config, std::int64_t positions, std::int64_t most_rows);

  /// The first forward's rows attend to each other and get back their own; later ones get the ring.
  model::KeyValue extend(int layer, const model::KeyValue& rows, const ops::Sequences& sequences) override;

  std::int64_t bytes() const;

 private:
  struct Layer {
    Tensor key, value;  // [positions held, kv_heads, d]; empty where the layer shares
  };

  Device& device_;
  std::vector<Layer> layers_;
};

}  // namespace mtp::decode
