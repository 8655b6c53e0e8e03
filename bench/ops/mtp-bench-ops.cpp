// mtp-bench-ops: every operation at the shapes of real models, beside its floor.

#include "cases.h"
#include "support/main.h"

namespace {

using namespace mtp;
using namespace mtp::bench;

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const auto& cases : {norm_cases(), elementwise_cases(), rope_cases(), embedding_cases(), matmul_cases(),
                            attention_cases(), cross_entropy_cases(), masked_head_cases(), optimizer_cases()})
    all.insert(all.end(), cases.begin(), cases.end());
  return all;
}

std::string name_of(const Case& each, const Sizes& sizes) {
  const std::string name = fmt::format("{}/{}/{}", each.operation, sizes.name, to_string(DType::f32));
  return each.variant.empty() ? name : name + "/" + each.variant;
}

void add_floors(Suite& suite) {
  for (const std::int64_t bytes : copy_sizes())
    suite.add(fmt::format("floor/copy/{}", bytes), "bytes moved by a copy", [bytes](Device& device) {
      return Work{.run = copy_work(device, bytes), .check = [] {}, .bytes = static_cast<double>(bytes)};
    });
  for (const std::int64_t size : matrix_sizes())
    suite.add(fmt::format("floor/matrix/{}", size), "fp32 products of square matrices", [size](Device& device) {
      const MatrixProduct products = matrix_products(device, size);
      return Work{.run = products.run, .check = products.check, .flops = products.flops};
    });
}

void add_all(Suite& suite) {
  add_floors(suite);
  for (const Sizes& sizes : all_sizes())
    for (const Case& each : all_cases())
      if (each.exists(sizes))
        suite.add(name_of(each, sizes), "", [each, sizes](Device& device) { return each.make(device, sizes); });
}

}  // namespace

int main(int argc, char** argv) {
  return run(argc, argv,
             {.name = "mtp-bench-ops",
              .summary = "times every operation at the shapes of real models, beside its floor",
              .options = {},
              .add_all = add_all});
}
