// Bytes as a config.json, of a base and of a drafter, up to the tensors that it asks for.

#include "fuzz/fuzz.h"
#include "mtp/hf/config.h"
#include "mtp/model/base_model.h"
#include "mtp/model/drafter.h"

namespace {

using namespace mtp;

void use(const hf::TextConfig& text) {
  constexpr std::int64_t longest = 1 << 20;  // what is computed only after the tensors were found to have this size
  for (const hf::LayerType type : {hf::LayerType::full, hf::LayerType::sliding})
    if (const hf::LayerShape* layer = text.layer_of(type); layer != nullptr && layer->head_dim <= longest)
      text.rope_inverse_frequencies(type);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::may_refuse([&] {
    const Json json = parse_json({reinterpret_cast<const char*>(data), size}, "config.json:");
    fuzz::may_refuse([&] {
      const hf::BaseConfig base = hf::parse_base_config(json, "base");
      use(base.text);
      model::BaseModel(base, {}, {.vision = true, .audio = true});
      hf::check_fit(base, {});
    });
    fuzz::may_refuse([&] {
      const hf::DrafterConfig drafter = hf::parse_drafter_config(json, "drafter");
      use(drafter.text);
      model::Drafter(drafter, 1);
      hf::check_fit({}, drafter);
    });
  });
  return 0;
}
