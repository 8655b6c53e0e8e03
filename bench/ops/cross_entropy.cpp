#include "mtp/ops/cross_entropy.h"
#include "mtp/ops/flops.h"

#include <cmath>

#include "heads.h"
#include "mtp/ops/choice.h"

namespace mtp::bench {

namespace {

/// The slope of the soft cap at a capped logit.
double slope(double z, float soft_cap) { return soft_cap > 0 ? 1 - (z / soft_cap) * (z / soft_cap) : 1; }

/// Products of the logits, of dx and of dw.
double flops(const Projection& p) { return 3 * ops::product_flops(p.rows(), p.width(), p.vocabulary()); }

Projection base_head(Device& device, const Sizes& s) {
  return projection(device, s, s.base.hidden_size, s.base.final_logit_softcapping.value_or(0),
                    random_ids(s.rows, s.vocabulary, 3));
}

Projection drafter_head(Device& device, const Sizes& s) {
  return projection(device, s, s.drafter.hidden_size, 0, random_ids(s.rows, s.vocabulary, 3));
}

void check_cross_entropy(const Device& device, const Projection& p) {
  ExpectedLosses expected(device, p);
  const std::vector<std::int64_t> rows = sample(p.x.size(0));
  const std::vector<Values> all = logits(device, rows_of(device, p.x, rows), p.w, p.ce.soft_cap);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Values& z = all[i];
    Values gradient = softmax(z);
    const std::int64_t label = p.all_labels[rows[i]];
    const double loss = -std::log(gradient[label]);
    gradient[label] -= 1;
    for (std::size_t v = 0; v < z.size(); ++v) gradient[v] *= p.ce.gradient_scale * slope(z[v], p.ce.soft_cap);
    expected.add(rows[i], loss, gradient);
  }
  expected.check();
}

Work cross_entropy(Device& device, const Projection& p) {
  return {.run = [=, &device] { ops::projected_cross_entropy(device, p.ce, p.x, p.w, p.labels, p.loss, p.dx, p.dw); },
          .check =
              [=, &device] {
                check_cross_entropy(device, p);
                label_every_row(device, p);
              },
          .bytes = bytes_of({p.x, p.w, p.labels, p.dx, p.dw, p.dw}),
          .flops = flops(p),
          .flops_type = p.w.dtype()};
}

/// `all_labels` are the teacher's rows here.
void check_distillation(const Device& device, const Projection& p, const ops::Teacher& teacher) {
  ExpectedLosses expected(device, p);
  const std::vector<std::int64_t> rows = sample(p.x.size(0));
  const std::vector<Values> own = logits(device, rows_of(device, p.x, rows), p.w, 0),
                            wanted = logits(device, rows_of(device, teacher.x, rows), teacher.w, teacher.soft_cap);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Values gradient = softmax(own[i]);
    const Values target = softmax(wanted[i]);
    double loss = 0;
    for (std::size_t v = 0; v < target.size(); ++v) {
      loss -= target[v] * std::log(gradient[v]);
      gradient[v] = (gradient[v] - target[v]) * p.ce.gradient_scale;
    }
    expected.add(rows[i], loss, gradient);
  }
  expected.check();
}

Work distillation(Device& device, const Sizes& s) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(s.rows));
  for (std::int64_t i = 0; i < s.rows; ++i) rows[i] = i;
  const Projection p = projection(device, s, s.drafter.hidden_size, 0, rows);
  const ops::Teacher from = teacher(device, s);
  return {
      .run = [=, &device] { ops::projected_distillation(device, p.ce, p.x, p.w, from, p.labels, p.loss, p.dx, p.dw); },
      .check =
          [=, &device] {
            check_distillation(device, p, from);
            label_every_row(device, p);
          },
      .bytes = bytes_of({p.x, p.w, p.labels, p.dx, p.dw, p.dw, from.x, from.w}),
      .flops = flops(p) + ops::product_flops(s.rows, s.base.hidden_size, s.vocabulary),
      .flops_type = s.type};
}

Work choice(Device& device, const Sizes& s) {
  const Projection p = base_head(device, s);
  const Tensor choices = device.empty({s.rows}, DType::i64);
  const auto check = [=, &device] {
    expect_choices(device, choices, logits(device, rows_of(device, p.x, sample(s.rows)), p.w, 0));
    label_every_row(device, p);
  };
  return {.run = [=, &device] { ops::projected_choice(device, p.x, p.w, p.labels, choices); },
          .check = check,
          .bytes = bytes_of({p.x, p.w, p.labels, choices}),
          .flops = ops::product_flops(p.rows(), p.width(), p.vocabulary()),
          .flops_type = s.type};
}

}  // namespace

std::vector<Case> cross_entropy_cases() {
  return {
      {"projected_cross_entropy", "base", [](Device& d, const Sizes& s) { return cross_entropy(d, base_head(d, s)); }},
      {"projected_cross_entropy", "drafter",
       [](Device& d, const Sizes& s) { return cross_entropy(d, drafter_head(d, s)); }},
      {"projected_distillation", "drafter", distillation},
      {"projected_choice", "base", choice}};
}

}  // namespace mtp::bench
