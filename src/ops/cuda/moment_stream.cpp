#include "moment_stream.h"

namespace mtp::ops::cuda {

namespace {

void copy(const Tensor& from, const Tensor& to, cudaMemcpyKind direction, cudaStream_t stream) {
  MTP_ASSERT(from.dtype() == to.dtype() && from.elements() == to.elements());
  const std::size_t bytes = static_cast<std::size_t>(from.elements()) * size_of(from.dtype());
  check_cuda(cudaMemcpyAsync(to.data<void>(), from.data<void>(), bytes, direction, stream), "a copy of moments");
}

}  // namespace

MomentStream::MomentStream(Device& device, DType dtype) : device_(device) {
  for (Slot& slot : slots_) {
    slot.moment1 = device.empty({piece}, dtype);
    slot.moment2 = device.empty({piece}, dtype);
  }
  // Whoever had this memory before, and whoever reads the moments on the host, did so in the device's stream.
  CudaEvent start;
  start.record(device.context().stream());
  start.hold_back(in_);
}

void MomentStream::pass(const Tensor& moment1, const Tensor& moment2,
                        const std::function<void(const Tensor&, const Tensor&)>& work) {
  const cudaStream_t compute = device_.context().stream();
  Slot& slot = slots_[next_];
  next_ = (next_ + 1) % slots_.size();
  const Tensor here1 = slot.moment1.slice(0, moment1.shape()), here2 = slot.moment2.slice(0, moment2.shape());

  if (slot.is_used) slot.is_out.hold_back(in_);
  slot.is_used = true;
  copy(moment1, here1, cudaMemcpyHostToDevice, in_);
  copy(moment2, here2, cudaMemcpyHostToDevice, in_);
  slot.is_in.record(in_);

  slot.is_in.hold_back(compute);
  work(here1, here2);
  slot.is_updated.record(compute);

  slot.is_updated.hold_back(out_);
  copy(here1, moment1, cudaMemcpyDeviceToHost, out_);
  copy(here2, moment2, cudaMemcpyDeviceToHost, out_);
  slot.is_out.record(out_);
}

void MomentStream::finish() {
  for (const Slot& slot : slots_)
    if (slot.is_used) slot.is_out.hold_back(device_.context().stream());
}

}  // namespace mtp::ops::cuda
