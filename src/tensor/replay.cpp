#include "mtp/tensor/replay.h"

#include <utility>

#include "arena.h"
#include "recording.h"

namespace mtp {

Replay::Replay(Device& device, std::function<void()> operations)
    : device_(device),
      operations_(std::move(operations)),
      arena_(std::make_shared<Arena>(device.arena_->shared_memory())) {}

Replay::~Replay() = default;

void Replay::run() {
  if (device_.kind() == Device::Kind::cpu || ++runs_ == 1) return run_operations();
  // The first run has left all the memory that is needed in the arena.
  if (recording_ == nullptr) {
    recording_ = record(device_.context(), [this] { run_operations(); });
    arena_->keep_for_recorded();
  }
  recording_->run();
}

void Replay::run_operations() {
  struct Exchanged {
    explicit Exchanged(std::shared_ptr<Arena>& of_device, std::shared_ptr<Arena>& own) : a(of_device), b(own) {
      std::swap(a, b);
    }
    ~Exchanged() { std::swap(a, b); }
    std::shared_ptr<Arena>&a, &b;
  };
  {
    const Exchanged exchanged(device_.arena_, arena_);
    operations_();
  }
  MTP_ASSERT(arena_->in_use() == 0);
}

}  // namespace mtp
