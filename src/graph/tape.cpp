#include "mtp/graph/tape.h"

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

Value Tape::output(Tensor data, bool needs_gradient) {
  return {std::move(data), needs_gradient ? std::make_shared<GradientSum>() : nullptr};
}

void Tape::on_backward(const Value& y, std::function<void(const Tensor&)> step) {
  if (!options_.recording || !y.needs_gradient()) return;
  steps_.push_back([sum = y.gradient, step = std::move(step)] {
    if (!sum->empty()) step(sum->take());
  });
}

void Tape::backward() {
  while (!steps_.empty()) {
    const Step step = std::move(steps_.back());
    steps_.pop_back();
    step();
  }
}

std::vector<Value> Tape::segment(std::vector<Value> inputs, Segment run, const std::string& part) {
  if (!options_.recording) {
    const Profile::InPart in_part(device().profile(), part);
    return run(*this, inputs);
  }
  const auto detach = [](const std::vector<Value>& values) {
    std::vector<Value> leaves;
    for (const Value& value : values) leaves.push_back(output(value.data, value.needs_gradient()));
    return leaves;
  };

  struct Pass {
    Pass(Device& device, const ops::Sequences& sequences, Options options) : tape(device, sequences, options) {}
    Tape tape;
    std::vector<Value> inputs, outputs;
  };
  const auto begin = [this, detach](const std::vector<Value>& values, bool recording) {
    auto pass = std::make_shared<Pass>(device(), sequences_, Options{recording, options_.recompute});
    pass->inputs = detach(values);
    return pass;
  };
  auto first = begin(inputs, !options_.recompute);
  {
    const Profile::InPart in_part(device().profile(), part);
    first->outputs = run(first->tape, first->inputs);
  }

  const std::vector<Value> outputs = detach(first->outputs);
  if (std::ranges::none_of(outputs, &Value::needs_gradient)) return outputs;
  if (options_.recompute) first = nullptr;

  std::vector<std::shared_ptr<GradientSum>> sums;
  for (const Value& value : outputs) sums.push_back(value.gradient);
  steps_.push_back([this, first, sums, inputs = std::move(inputs), run = std::move(run), part, begin] {
    const Profile::InPart in_part(device().profile(), part);
    std::shared_ptr<Pass> pass = first;
    if (pass == nullptr) {
      pass = begin(inputs, true);
      pass->outputs = run(pass->tape, pass->inputs);
    }
    for (std::size_t i = 0; i < sums.size(); ++i)
      if (sums[i] != nullptr && !sums[i]->empty()) pass->outputs[i].gradient->add(device(), sums[i]->take());
    pass->outputs.clear();
    pass->tape.backward();
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].needs_gradient() && !pass->inputs[i].gradient->empty())
        inputs[i].gradient->add(device(), pass->inputs[i].gradient->take());
  });
  return outputs;
}

std::size_t Tape::begin_scope(ParameterGroup& group, Use use) {
  if (options_.recording)
    steps_.push_back([&group, use] {
      if (group.trained()) group.reduce_gradients();
      if (use == Use::values) group.release();
    });
  return steps_.size();
}

void Tape::end_scope(ParameterGroup& group, Use use, std::size_t place) {
  if (!options_.recording) return;
  const bool nothing_to_go_back_through = steps_.size() == place && !group.trained();
  if (nothing_to_go_back_through)
    steps_.pop_back();
  else if (use == Use::values)
    steps_.push_back([&group] { group.acquire(); });
}

}  // namespace mtp
