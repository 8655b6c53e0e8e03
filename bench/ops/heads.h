#pragma once

#include <functional>
#include <vector>

#include "cases.h"
#include "mtp/ops/cross_entropy.h"

namespace mtp::bench {

// What the benchmarks of the output projections share. Logits in double precision are slow: results are checked with
// labels on a few rows, and timed with a label on every row.

/// An output projection with its losses' results.
struct Projection {
  ops::CrossEntropy ce;
  Tensor x, w;
  Tensor labels;  // [T] int64; on a sample of the rows until `label_every_row`
  std::vector<std::int64_t> all_labels;
  Tensor loss, dx, dw;

  std::int64_t rows() const { return x.size(0); }
  std::int64_t width() const { return x.size(1); }
  std::int64_t vocabulary() const { return w.size(0); }
};
/// Of `sizes.rows` rows of `width` over `sizes.vocabulary` tokens. `labels`: of every row.
Projection projection(Device& device, const Sizes& sizes, std::int64_t width, float soft_cap,
                      std::vector<std::int64_t> labels);
void label_every_row(Device& device, const Projection& projection);

/// A teacher of the base's width, each of whose rows is that of the same row.
ops::Teacher teacher(Device& device, const Sizes& sizes);

/// The values of these rows of a tensor.
std::vector<Values> rows_of(const Device& device, const Tensor& tensor, const std::vector<std::int64_t>& rows);
/// For every row of a table [n, width], in its order, a part of which is on the host at a time.
void for_each_row(const Device& device, const Tensor& table,
                  const std::function<void(std::int64_t index, const float* row)>& body);

double dot(const Values& x, const float* row);
double cap(double z, float soft_cap);
/// cap(x wᵀ) of each row x.
std::vector<Values> logits(const Device& device, const std::vector<Values>& rows, const Tensor& w, float soft_cap);
Values softmax(Values z);

/// Throws Error where a row's choice is not the token of its largest logit. `logits`: of each row of a sample.
void expect_choices(const Device& device, const Tensor& choices, const std::vector<Values>& logits);

/// The expected loss and gradients of a sample of rows, added up row by row.
class ExpectedLosses {
 public:
  ExpectedLosses(const Device& device, const Projection& projection) : device_(device), projection_(projection) {}

  /// A row's loss and the gradient of each of its products x wᵀ, by token.
  void add(std::int64_t row, double loss, const Values& gradient);
  /// Throws Error where the results differ.
  void check() const;

 private:
  const Device& device_;
  const Projection& projection_;
  double loss_ = 0;
  std::vector<std::int64_t> rows_;
  std::vector<Values> gradients_;
};

}  // namespace mtp::bench
