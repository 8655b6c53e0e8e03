#pragma once

#include <functional>
#include <memory>

namespace mtp {

class CudaContext;

/// What was queued on a GPU's stream, to be queued again.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void run() = 0;
};

/// Records what `operations` queue, which is not run.
std::unique_ptr<Recording> record(CudaContext& context, const std::function<void()>& operations);

}  // namespace mtp
