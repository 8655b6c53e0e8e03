#pragma once

#include "mtp/tensor/device.h"
#include "mtp/tensor/profile.h"

// For the front of a family of operations, which checks what it is given and then calls the device's back end. Back
// ends check nothing again but what they alone demand.

/// Declares an operation in the namespace of each back end with the type that its header gives it: a back end that
/// lacks one, or has one of another type, does not link.
#ifdef MTP_WITH_CUDA
#define MTP_BACK_ENDS(operation)      \
  namespace mtp::ops::cpu {           \
  decltype(ops::operation) operation; \
  }                                   \
  namespace mtp::ops::cuda {          \
  decltype(ops::operation) operation; \
  }
#define MTP_BACK_END(operation) (device.kind() == Device::Kind::cuda ? cuda::operation : cpu::operation)
#else
#define MTP_BACK_ENDS(operation)      \
  namespace mtp::ops::cpu {           \
  decltype(ops::operation) operation; \
  }
#define MTP_BACK_END(operation) cpu::operation
#endif

/// An operation's FLOPs (mtp/ops/flops.h), which only a device that counts works out: its tensors of int64 are in the
/// host's memory.
#define MTP_FLOPS(flops) \
  if (device.is_counting()) device.add_flops(flops)

/// Runs an operation of the back end of `device`, and measures it.
#define MTP_RUN(operation, ...)                                   \
  device.profile().measure(#operation, [&] {                      \
    const Device::Within accounts(device, MemoryUse::operations); \
    MTP_BACK_END(operation)(device, __VA_ARGS__);                 \
  })
