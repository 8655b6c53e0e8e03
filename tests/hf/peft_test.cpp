#include "mtp/hf/peft.h"

#include <gtest/gtest.h>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::hf {
namespace {

class PeftTest : public testing::Test {
 protected:
  void write(const Json& config, const std::vector<std::string>& names) {
    write_json(folder.path() / peft_config_file, config);
    std::vector<TensorEntry> entries;
    for (const std::string& name : names) entries.push_back({name, "F32", {1}});
    SafetensorsWriter writer(folder.path() / peft_weights_file, entries);
    const float value = 1;
    for (std::size_t i = 0; i < names.size(); ++i) writer.append(std::as_bytes(std::span(&value, 1)));
    writer.finish();
  }
  std::string refusal(const Json& changes) {
    Json config = peft_config(4, 8, {"a.q_proj"}, "base");
    config.update(changes);
    write(config, {});
    const std::string message = test::error_of<Error>([&] { PeftAdapter::open(folder.path()); });
    return message.substr(message.find(": ") + 2);
  }

  test::TempDir folder;
};

TEST_F(PeftTest, TakesAdaptersOfTheWholeModelAndOfItsTextDecoder) {
  const std::string name = "model.language_model.layers.0.self_attn.q_proj.lora_A.weight";
  for (const char* stored : {"base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight",
                             "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"}) {
    write(peft_config(4, 8, {}, "base"), {stored});
    const PeftAdapter adapter = PeftAdapter::open(folder.path());
    EXPECT_EQ(adapter.rank, 4);
    EXPECT_EQ(adapter.alpha, 8);
    EXPECT_EQ(adapter.name_of(name), stored);
  }
}

TEST_F(PeftTest, RefusesOtherKindsOfAdapters) {
  EXPECT_EQ(refusal({{"peft_type", "IA3"}}), "peft_type is not LORA; other adapters are not supported");
  EXPECT_EQ(refusal({{"use_dora", true}}), "use_dora is true; only plain adapters of one rank are supported");
  EXPECT_EQ(refusal({{"rank_pattern", {{"q_proj", 2}}}}),
            R"(rank_pattern is {"q_proj":2}; only plain adapters of one rank are supported)");
  EXPECT_EQ(refusal({{"modules_to_save", {"lm_head"}}}),
            R"(modules_to_save is ["lm_head"]; only plain adapters of one rank are supported)");
}

}  // namespace
}  // namespace mtp::hf
