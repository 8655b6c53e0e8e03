#pragma once

// Graphs: while a stream is captured, what is queued on it is kept as closures, with the arguments that it has then,
// and not run. As in CUDA, what cannot be captured fails and ends the capture without a graph.

#include <functional>
#include <memory>
#include <vector>

enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };

namespace emulation {

struct Graph {
  std::vector<std::function<bool()>> nodes;  // as of a stream's queue
};

/// The capture under way; there is one host thread.
struct Capture {
  bool active = false, valid = false;
  Graph graph;

  /// True where the caller may not go on: what it does is forbidden.
  bool forbids() { return active && (valid = false, true); }
};
inline Capture capture;

}  // namespace emulation

using cudaGraph_t = emulation::Graph*;
using cudaGraphExec_t = emulation::Graph*;

template <typename Stream>
cudaError_t cudaStreamBeginCapture(Stream, cudaStreamCaptureMode) {
  if (emulation::capture.forbids()) return cudaErrorStreamCaptureUnsupported;
  emulation::capture = {.active = true, .valid = true, .graph = {}};
  return cudaSuccess;
}
template <typename Stream>
cudaError_t cudaStreamEndCapture(Stream, cudaGraph_t* graph) {
  emulation::Capture ended = std::exchange(emulation::capture, {});
  *graph = nullptr;
  if (!ended.active || !ended.valid) return cudaErrorStreamCaptureInvalidated;
  *graph = new emulation::Graph(std::move(ended.graph));
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  return *executable = new emulation::Graph(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, emulation::Stream* stream) {
  if (emulation::capture.forbids()) return cudaErrorStreamCaptureUnsupported;
  for (const auto& node : executable->nodes) emulation::enqueue(stream, node);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return delete executable, cudaSuccess; }
