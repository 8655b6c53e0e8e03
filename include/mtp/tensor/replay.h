#pragma once

#include <functional>
#include <memory>

#include "mtp/tensor/device.h"

namespace mtp {

class Recording;

/// Operations that are run again and again. On a GPU the first run is like any other, the second is recorded in a CUDA
/// graph, and from then on the graph is launched: one call of the host for all of them. On the CPU every run calls
/// them.
///
/// So the operations must be the same in every run, on the same tensors: what varies is read from tensors that are
/// written before. They must not wait for the device or read host memory. What they make lives in memory of this
/// object, and nothing of it may be left when they return: results go to tensors made before.
class Replay {
 public:
  Replay(Device& device, std::function<void()> operations);
  ~Replay();
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  void run();

 private:
  void run_operations();

  Device& device_;
  std::function<void()> operations_;
  std::shared_ptr<Arena> arena_;
  int runs_ = 0;
  std::unique_ptr<Recording> recording_;
};

}  // namespace mtp
