#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mtp/tensor/device.h"

namespace mtp {

class ExpertExchange;

/// The tokens of a forward, whose rows of tables are looked up.
struct Tokens {
  /// Of texts that the host knows. `fill` stands for what comes after a text's end: its row is looked up too, and no
  /// gradient goes to it.
  static Tokens known(Device& device, std::span<const std::int64_t> ids, std::int64_t fill);
  /// Of a text that the device is writing.   ids [T] int64
  static Tokens on_device(Tensor ids) { return {.ids = std::move(ids)}; }

  Tensor ids;                           // [T] int64, or [T + 1] with `fill` at the end
  std::vector<std::int64_t> host = {};  // the same; empty where only the device knows them
  std::int64_t fill = -1;               // -1: none

  std::int64_t count() const { return ids.elements() - (fill >= 0 ? 1 : 0); }
};

/// Parameters that are gathered, used and released together. Their values are there between `acquire` and `release`
/// only; a graph opens and closes them through `Graph::scope`, in the backward too.
class ParameterGroup {
 public:
  virtual ~ParameterGroup() = default;

  /// For profiles.
  virtual std::string name() const = 0;
  virtual bool trained() const = 0;
  /// Makes the values available. Calls nest.
  virtual void acquire() = 0;
  virtual void release() = 0;
  /// Hands this micro-batch's gradients to whoever adds them up; called once a micro-batch, after their last use.
  virtual void reduce_gradients() = 0;

  /// Parameter `index` of the group in the type that is computed with; its gradient is fp32, is added to and starts at
  /// zero in each micro-batch.
  virtual Tensor value(std::size_t index) const = 0;
  /// `source`: whose micro-batch, by the rank in the exchange of a group that has one.
  virtual Tensor gradient(std::size_t index, std::size_t source = 0) = 0;

  /// Of a group of which this rank has some experts only, in `value` too; else none.
  virtual const ExpertExchange* expert_exchange() const { return nullptr; }

  /// Rows of the group's only parameter, a table, without acquiring it: of every token and of `fill`, in the type of
  /// `value`.
  virtual Tensor rows(const Tokens& tokens) = 0;
  /// The table's row of token t gets factor · gradients[t], in the order of the tokens; that of `fill` gets nothing. At
  /// most once a micro-batch, and after what went into `gradient`.   gradients [T, width] fp32 or bf16
  virtual void add_row_gradients(const Tokens& tokens, const Tensor& gradients, float factor) = 0;
};

/// A tensor of a model as the part that declares it holds it. It belongs to a group once the pair's units are made;
/// copies share that. Default: no parameter.
class Parameter {
 public:
  Parameter() = default;
  explicit Parameter(Shape shape) : place_(std::make_shared<Place>()), shape_(std::move(shape)) {}
  Parameter(ParameterGroup& group, std::size_t index, Shape shape) : Parameter(std::move(shape)) { bind(group, index); }

  const Shape& shape() const { return shape_; }
  /// Makes it parameter `index` of a group, for all copies.
  void bind(ParameterGroup& group, std::size_t index) const { *place_ = {&group, index}; }
  ParameterGroup& group() const {
    MTP_ASSERT(place_ != nullptr && place_->group != nullptr);
    return *place_->group;
  }
  bool trained() const { return group().trained(); }
  Tensor value() const { return group().value(place_->index); }
  Tensor gradient(std::size_t source = 0) const { return group().gradient(place_->index, source); }

 private:
  struct Place {
    ParameterGroup* group = nullptr;
    std::size_t index = 0;
  };
  std::shared_ptr<Place> place_;
  Shape shape_;
};

}  // namespace mtp
