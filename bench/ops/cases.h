#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "mtp/hf/config.h"
#include "mtp/tensor/device.h"
#include "support/suite.h"

namespace mtp::bench {

/// What the operations see in a forward and backward of a pair: the widths of a preset, and as many rows as keep an
/// iteration short.
struct Sizes {
  std::string name;
  DType type = DType::f32;  // of activations and weights; sums, losses and gradients of weights are fp32
  hf::TextConfig base, drafter;
  std::int64_t centroids = 0, top_k = 0;  // of the drafter's masked head; 0 without one
  std::int64_t rows = 0;                  // tokens
  std::int64_t length = 0;                // tokens of the sequence that attention sees
  std::int64_t vocabulary = 0;            // rows of the base's token table: a slice where the whole would be too large
  std::int64_t experts = 0;               // of a layer, likewise; 0 without any
};
/// On a GPU, E4B, 26B-A4B and 31B with as many rows as a sequence has, and the whole vocabulary.
std::vector<Sizes> all_sizes(Device::Kind kind, DType type);

/// An operation in one of its uses.
struct Case {
  std::string operation;  // as in include/mtp/ops
  std::string variant;    // where a model uses it with several shapes, else empty
  std::function<Work(Device& device, const Sizes& sizes)> make;
  std::function<bool(const Sizes& sizes)> exists = [](const Sizes&) { return true; };
};
/// For cases of fp32 alone.
bool is_fp32(const Sizes& sizes);

std::vector<Case> norm_cases();
std::vector<Case> elementwise_cases();
std::vector<Case> embedding_cases();
std::vector<Case> matmul_cases();
std::vector<Case> expert_cases();
std::vector<Case> rope_cases();
std::vector<Case> attention_cases();
std::vector<Case> cross_entropy_cases();
std::vector<Case> masked_head_cases();
std::vector<Case> rowwise_cases();
std::vector<Case> optimizer_cases();

// Inputs, and checks of a part of the results against sums in double precision.

/// Uniform in ±scale, the same in every run.
Tensor random_tensor(Device& device, const Shape& shape, unsigned seed, float scale = 1, DType type = DType::f32);
/// Uniform in 0 … end - 1.   [n] int64
std::vector<std::int64_t> random_ids(std::int64_t n, std::int64_t end, unsigned seed);

using Values = std::vector<double>;
/// Elements begin … begin + count - 1 of a tensor.
Values part(const Device& device, const Tensor& tensor, std::int64_t begin, std::int64_t count);
/// Row `index` of a tensor of rows as wide as its last dimension.
Values row(const Device& device, const Tensor& tensor, std::int64_t index);
/// A few of n rows, first and last among them; all where they are few.
std::vector<std::int64_t> sample(std::int64_t n);

double dot(const Values& a, const Values& b);

/// The types that a result was rounded to on its way, beside fp32.
struct Rounded {
  DType result = DType::f32;  // each element, in the end
  DType terms = DType::f32;   // what it is the sum of, such as probabilities before they multiply values
};
/// Throws Error where an element differs by more than 1e-4 of the largest expected one (0.01 at the least), and half a
/// unit in the last place of bf16 of its own size where results are rounded, and of the largest one's where terms are:
/// `what` names the result.
void expect_close(const std::string& what, const Values& actual, const Values& expected, Rounded rounded = {});
/// The same for a sample of a tensor's rows, whose type is that of the result.
void expect_rows(const Device& device, const std::string& what, const Tensor& actual,
                 const std::function<Values(std::int64_t row)>& expected, DType terms = DType::f32);

/// The same for elements of a sample of a matrix's rows and columns: `expected(i, j)` is that of row i and column j.
void expect_elements(const Device& device, const std::string& what, const Tensor& actual,
                     const std::function<double(std::int64_t i, std::int64_t j)>& expected);

/// Bytes of the tensors' elements.
double bytes_of(std::initializer_list<Tensor> tensors);

}  // namespace mtp::bench
