#include "mtp/graph/graph.h"

#include <algorithm>
#include <utility>

#include "mtp/ops/elementwise.h"
#include "mtp/tensor/profile.h"

namespace mtp {

void GradientSum::add(Device& device, Tensor gradient) {
  if (sum_.empty()) {
    sum_ = std::move(gradient);
  } else if (sum_.unique()) {
    ops::accumulate(device, gradient, sum_);
  } else {  // another value holds the same memory: both inputs of a sum get the sum's gradient
    Tensor sum = device.empty(sum_.shape(), sum_.dtype());
    ops::add(device, sum_, gradient, sum);
    sum_ = std::move(sum);
  }
}

void GradientSum::add_columns(Device& device, const Tensor& gradient, std::int64_t begin, std::int64_t width) {
  if (sum_.empty()) sum_ = device.zeros({gradient.size(0), width}, gradient.dtype());
  MTP_ASSERT(sum_.unique());
  ops::add_columns(device, gradient, begin, sum_);
}

Value Graph::output(Tensor data, bool needs_gradient) const {
  return {std::move(data), needs_gradient ? std::make_shared<GradientSum>() : nullptr};
}

void Graph::on_backward(const Value& y, std::function<void(const Tensor&)> step) {
  if (!options_.recording || !y.needs_gradient()) return;
  tape_.push_back([sum = y.gradient, step = std::move(step)] {
    if (!sum->empty()) step(sum->take());
  });
}

void Graph::backward() {
  while (!tape_.empty()) {
    const Step step = std::move(tape_.back());
    tape_.pop_back();
    step();
  }
}

namespace {

/// While it lives, operations belong to this part of the profile, if it has a name.
class InPart {
 public:
  InPart(const Device& device, const std::string& name) : profile_(device.profile()), name_(name) {
    if (!name_.empty()) profile_.begin_part(name_);
  }
  ~InPart() {
    if (!name_.empty()) profile_.end_part(name_);
  }
  InPart(const InPart&) = delete;
  InPart& operator=(const InPart&) = delete;

 private:
  Profile& profile_;
  const std::string name_;
};

}  // namespace

std::vector<Value> Graph::segment(std::vector<Value> inputs, Segment run, const std::string& part) {
  const auto detach = [](const std::vector<Value>& values) {
    std::vector<Value> leaves;
    for (const Value& value : values)
      leaves.push_back({value.data, value.needs_gradient() ? std::make_shared<GradientSum>() : nullptr, value.pending});
    return leaves;
  };

  struct Pass {
    Pass(Device& device, Options options) : graph(device, options) {}
    Graph graph;
    std::vector<Value> inputs, outputs;
  };
  Options first_options = options_;
  first_options.recording = options_.recording && !options_.recompute;
  auto first = std::make_shared<Pass>(device_, first_options);
  first->inputs = detach(inputs);
  {
    const InPart in_part(device_, part);
    first->outputs = run(first->graph, first->inputs);
  }

  std::vector<Value> outputs;
  for (const Value& inner : first->outputs) {
    outputs.push_back(output(inner.data, inner.needs_gradient()));
    outputs.back().pending = inner.pending;
  }
  const bool needs_gradient =
      std::any_of(outputs.begin(), outputs.end(), [](const Value& value) { return value.needs_gradient(); });
  if (!options_.recording || !needs_gradient) return outputs;
  if (options_.recompute) first = nullptr;

  std::vector<std::shared_ptr<GradientSum>> sums;
  for (const Value& value : outputs) sums.push_back(value.gradient);
  tape_.push_back([this, first, sums, inputs = std::move(inputs), run = std::move(run), part, detach] {
    const InPart in_part(device_, part);
    std::shared_ptr<Pass> pass = first;
    if (pass == nullptr) {
      pass = std::make_shared<Pass>(device_, Options{true, options_.recompute});
      pass->inputs = detach(inputs);
      pass->outputs = run(pass->graph, pass->inputs);
    }
    for (std::size_t i = 0; i < sums.size(); ++i)
      if (sums[i] != nullptr && !sums[i]->empty()) pass->outputs[i].gradient->add(device_, sums[i]->take());
    pass->outputs.clear();
    pass->graph.backward();
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].needs_gradient() && !pass->inputs[i].gradient->empty())
        inputs[i].gradient->add(device_, pass->inputs[i].gradient->take());
  });
  return outputs;
}

Graph::Scope::Scope(Graph& graph, ParameterGroup& group, Use use)
    : graph_(&graph), group_(&group), use_(use), begin_(graph.tape_.size()) {
  if (use != Use::rows) group.acquire();
  if (graph.options_.recording)
    graph.tape_.push_back([&group, use] {
      if (group.trained()) group.reduce_gradients();
      if (use == Use::values) group.release();
    });
}

Graph::Scope::~Scope() {
  if (graph_ == nullptr) return;
  if (use_ != Use::rows) group_->release();
  if (!graph_->options_.recording) return;
  const bool nothing_to_go_back_through = graph_->tape_.size() == begin_ + 1 && !group_->trained();
  if (nothing_to_go_back_through)
    graph_->tape_.pop_back();
  else if (use_ == Use::values)
    graph_->tape_.push_back([group = group_] { group->acquire(); });
}

}  // namespace mtp
