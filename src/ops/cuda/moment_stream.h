#pragma once

#include <array>
#include <functional>
#include <optional>

#include "../../tensor/cuda/stream.h"
#include "mtp/tensor/device.h"

namespace mtp::ops::cuda {

/// Takes moments that lie in the host's memory through the device's, piece by piece: one comes in and one goes out,
/// each on a stream of its own, so that both directions of the bus are busy, while a third is worked on in the device's
/// stream.
class MomentStream {
 public:
  static constexpr std::int64_t piece = std::int64_t{1} << 20;  // elements: copies of 2 or 4 MiB

  MomentStream(Device& device, DType dtype);

  /// `work` queues operations on the device's stream that update what it is given: copies of the two moments, which lie
  /// on the host and have at most `piece` elements. They are written back.
  void pass(const Tensor& moment1, const Tensor& moment2,
            const std::function<void(const Tensor& moment1, const Tensor& moment2)>& work);
  /// To be called after the last piece: the device's stream goes on when all is back on the host.
  void finish();

 private:
  static constexpr std::size_t slots = 3;

  struct Slot {
    Tensor moment1, moment2;
  };
  /// What a piece on its way through a slot has passed.
  struct Passage {
    CudaEvent is_in, is_updated, is_out;
    bool is_used = false;
  };
  struct Streams {
    CudaStream in, out;
    std::array<Passage, slots> passages;
  };

  Device& device_;
  std::array<Slot, slots> slots_;
  std::optional<Streams> streams_;  // none on a device that counts
  std::size_t next_ = 0;
};

}  // namespace mtp::ops::cuda
