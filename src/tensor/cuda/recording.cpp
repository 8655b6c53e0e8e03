#include "../recording.h"

#include "context.h"

namespace mtp {

namespace {

/// A CUDA graph that can be launched.
class CudaGraph final : public Recording {
 public:
  CudaGraph(CudaContext& context, cudaGraph_t graph) : context_(context) {
    check_cuda(cudaGraphInstantiate(&executable_, graph, 0), "a graph of its operations");
  }
  ~CudaGraph() override {
    // An error here was or will be told by an operation.
    cudaStreamSynchronize(context_.stream());
    cudaGraphExecDestroy(executable_);
  }

  void run() override { check_cuda(cudaGraphLaunch(executable_, context_.stream()), "the start of a graph"); }

 private:
  CudaContext& context_;
  cudaGraphExec_t executable_ = nullptr;
};

/// The graph of what is queued on a stream while this lives.
class Capture {
 public:
  explicit Capture(cudaStream_t stream) : stream_(stream) {
    check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "to record operations");
  }
  ~Capture() {
    if (!ended_) cudaStreamEndCapture(stream_, &graph_);  // an operation has failed, whose error is on its way
    if (graph_ != nullptr) cudaGraphDestroy(graph_);
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  cudaGraph_t end() {
    ended_ = true;
    check_cuda(cudaStreamEndCapture(stream_, &graph_), "operations that were recorded");
    return graph_;
  }

 private:
  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  bool ended_ = false;
};

}  // namespace

std::unique_ptr<Recording> record(CudaContext& context, const std::function<void()>& operations) {
  Capture capture(context.stream());
  operations();
  return std::make_unique<CudaGraph>(context, capture.end());
}

}  // namespace mtp
