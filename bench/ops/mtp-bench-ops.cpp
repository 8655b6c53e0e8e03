// mtp-bench-ops: every operation at the shapes of real models, beside its floor.

#include "cases.h"
#include "support/main.h"

namespace {

using namespace mtp;
using namespace mtp::bench;

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const auto& cases :
       {norm_cases(), elementwise_cases(), rope_cases(), embedding_cases(), matmul_cases(), expert_cases(),
        attention_cases(), cross_entropy_cases(), masked_head_cases(), rowwise_cases(), optimizer_cases()})
    all.insert(all.end(), cases.begin(), cases.end());
  return all;
}

std::string name_of(const Case& each, const Sizes& sizes) {
  const std::string name = fmt::format("{}/{}/{}", each.operation, sizes.name, to_string(sizes.type));
  return each.variant.empty() ? name : name + "/" + each.variant;
}

void add_memory_floors(Suite& suite) {
  const bool on_gpu = suite.device_kind() == Device::Kind::cuda;
  const char* label = on_gpu ? "the range in each run" : "a part of the range in each run";
  const auto add = [&](const char* name, auto make) {
    for (const std::int64_t range : memory_ranges(suite.device_kind()))
      suite.add(fmt::format("floor/{}/{}", name, range), label, [=](Device& device) {
        const MemoryWork work = make(device, range);
        return Work{.run = work.run, .check = [] {}, .bytes = work.bytes, .range = static_cast<double>(range)};
      });
  };
  add("copy", copy_work);
  add("update", update_work);
}

/// Names carry the type where there is more than one.
void add_matrix_floors(Suite& suite) {
  const std::vector<DType>& types = matrix_types(suite.device_kind());
  for (const DType type : types)
    for (const std::int64_t size : matrix_sizes(suite.device_kind()))
      suite.add(fmt::format("floor/matrix/{}{}", size, types.size() > 1 ? "/" + to_string(type) : ""),
                fmt::format("{} products of square matrices", to_string(type)), [=](Device& device) {
                  const MatrixProduct products = matrix_products(device, size, type);
                  return Work{
                      .run = products.run, .check = products.check, .flops = products.flops, .flops_type = type};
                });
}

DType type_of(const std::string& name) {
  for (const DType type : {DType::f32, DType::bf16})
    if (name == to_string(type)) return type;
  throw UsageError("option --dtype: {} is neither fp32 nor bf16", name);
}

void add_all(Suite& suite, std::vector<std::string> types) {
  if (types.empty()) {
    types = {to_string(DType::f32)};
    if (suite.device_kind() == Device::Kind::cuda) types.push_back(to_string(DType::bf16));
  }
  add_memory_floors(suite);
  add_matrix_floors(suite);
  parallel::agree(suite.communicator(), "the options", [&] {
    for (const std::string& type : types)
      for (const Sizes& sizes : all_sizes(suite.device_kind(), type_of(type)))
        for (const Case& each : all_cases())
          if (each.exists(sizes))
            suite.add(name_of(each, sizes), "", [each, sizes](Device& device) { return each.make(device, sizes); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  namespace po = boost::program_options;
  std::vector<std::string> types;
  po::options_description options;
  options.add_options()(
      "dtype", po::value(&types),
      "of activations and weights, fp32 or bf16; may be given twice (default: fp32, and on a GPU bf16 too)");
  return run(argc, argv,
             {.name = "mtp-bench-ops",
              .summary = "times every operation at the shapes of real models, beside its floor",
              .options = options,
              .add_all = [&](Suite& suite) { add_all(suite, types); }});
}
