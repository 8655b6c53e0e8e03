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
  if (device.is_counting()) return;
  streams_.emplace();
  // Whoever had this memory before, and whoever reads the moments on the host, did so in the device's stream.
  CudaEvent start;
  start.record(device.context().stream());
  start.hold_back(streams_->in);
}

void MomentStream::pass(const Tensor& moment1, const Tensor& moment2,
                        const std::function<void(const Tensor&, const Tensor&)>& work) {
  const std::size_t place = next_;
  next_ = (next_ + 1) % slots;
  const Slot& slot = slots_[place];
  const Tensor here1 = slot.moment1.slice(0, moment1.shape()), here2 = slot.moment2.slice(0, moment2.shape());
  if (!streams_) return work(here1, here2);

  const cudaStream_t compute = device_.context().stream();
  auto& [in, out, passages] = *streams_;
  Passage& passage = passages[place];
  if (passage.is_used) passage.is_out.hold_back(in);
  passage.is_used = true;
  copy(moment1, here1, cudaMemcpyHostToDevice, in);
  copy(moment2, here2, cudaMemcpyHostToDevice, in);
  passage.is_in.record(in);

  passage.is_in.hold_back(compute);
  work(here1, here2);
  passage.is_updated.record(compute);

  passage.is_updated.hold_back(out);
  copy(here1, moment1, cudaMemcpyDeviceToHost, out);
  copy(here2, moment2, cudaMemcpyDeviceToHost, out);
  passage.is_out.record(out);
}

void MomentStream::finish() {
  if (!streams_) return;
  for (const Passage& passage : streams_->passages)
    if (passage.is_used) passage.is_out.hold_back(device_.context().stream());
}

}  // namespace mtp::ops::cuda
