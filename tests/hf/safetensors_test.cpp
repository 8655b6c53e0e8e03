#include "mtp/hf/safetensors.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "hf/write_files.h"
#include "mtp/core/json.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::hf {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;

constexpr float infinity = std::numeric_limits<float>::infinity();

std::uint16_t stored(float value, const std::string& dtype) {
  const auto bytes = convert({&value, 1}, dtype);
  std::uint16_t bits = 0;
  std::memcpy(&bits, bytes.data(), sizeof(bits));
  return bits;
}

std::string contents(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class SafetensorsTest : public testing::Test {
 protected:
  std::vector<float> read(const std::string& name, std::int64_t begin, std::int64_t count) {
    std::vector<float> values(count);
    TensorFiles::open(dir.path()).read(name, begin, values);
    return values;
  }
  /// What opening the directory says, without its path.
  std::string refusal() {
    std::string message = test::error_of([&] { TensorFiles::open(dir.path()); });
    for (std::size_t at; (at = message.find(dir.path().string() + "/")) != std::string::npos;)
      message.erase(at, dir.path().string().size() + 1);
    return message;
  }
  std::string refusal_of(const std::string& header, std::size_t data_bytes) {
    test::write_raw(file, header, data_bytes);
    return refusal();
  }

  test::TempDir dir;
  const fs::path file = dir.path() / "model.safetensors";
};

TEST_F(SafetensorsTest, ASliceOfEveryFloatingTypeIsReadAsFp32) {
  const std::vector<float> values = {1, -2, 0.5f, 3, 0, -0.0078125f};
  test::write_tensors(
      file, {{{"a", "F32", {2, 3}}, values}, {{"b", "BF16", {2, 3}}, values}, {{"c", "F16", {2, 3}}, values}});
  for (const char* name : {"a", "b", "c"}) {
    EXPECT_EQ(read(name, 0, 6), values) << name;
    EXPECT_THAT(read(name, 2, 3), ElementsAre(0.5f, 3, 0)) << name;
  }
}

TEST_F(SafetensorsTest, EveryFp16ValueSurvivesReadingAndWriting) {
  std::vector<std::uint16_t> halves(0x10000);
  std::iota(halves.begin(), halves.end(), 0);
  SafetensorsWriter writer(file, {{"x", "F16", {0x10000}}});
  writer.append(std::as_bytes(std::span(halves)));
  writer.finish();
  const std::vector<float> values = read("x", 0, 0x10000);
  for (const std::uint16_t half : halves) {
    const bool is_nan = std::isnan(values[half]);
    ASSERT_EQ(stored(values[half], "F16"), is_nan ? 0x7E00 : half) << "value " << values[half];
  }
  EXPECT_EQ(std::count_if(values.begin(), values.end(), [](float v) { return std::isnan(v); }), 2 * 1023);
}

TEST_F(SafetensorsTest, RoundsToNearestEven) {
  EXPECT_EQ(stored(0.0f, "F16"), 0x0000);
  EXPECT_EQ(stored(-0.0f, "F16"), 0x8000);
  EXPECT_EQ(stored(1.0f + 0x1p-11f, "F16"), 0x3C00);             // half way: to even
  EXPECT_EQ(stored(1.0f + 3 * 0x1p-11f, "F16"), 0x3C02);         // half way: to even
  EXPECT_EQ(stored(1.0f + 0x1p-11f + 0x1p-20f, "F16"), 0x3C01);  // just above
  EXPECT_EQ(stored(2.0f - 0x1p-12f, "F16"), 0x4000);             // carries into the exponent
  EXPECT_EQ(stored(65519.0f, "F16"), 0x7BFF);
  EXPECT_EQ(stored(65520.0f, "F16"), 0x7C00);  // half way to 65536: infinity
  EXPECT_EQ(stored(-infinity, "F16"), 0xFC00);
  EXPECT_EQ(stored(0x1p-25f, "F16"), 0x0000);      // half of the smallest: to even
  EXPECT_EQ(stored(3 * 0x1p-25f, "F16"), 0x0002);  // subnormal, half way
  EXPECT_EQ(stored(1.0f + 0x1p-8f, "BF16"), 0x3F80);
  EXPECT_EQ(stored(1.0f + 3 * 0x1p-8f, "BF16"), 0x3F82);
  EXPECT_EQ(stored(1.0f + 0x1p-8f + 0x1p-20f, "BF16"), 0x3F81);
  EXPECT_EQ(stored(std::numeric_limits<float>::max(), "BF16"), 0x7F80);
  EXPECT_EQ(stored(-infinity, "BF16"), 0xFF80);
  for (const char* dtype : {"F16", "BF16"}) {
    const std::uint16_t exponent = dtype == std::string("F16") ? 0x7C00 : 0x7F80;
    const std::uint16_t bits = stored(std::bit_cast<float>(0x7F800001u), dtype);  // a NaN whose high bits say infinity
    EXPECT_EQ(bits & exponent, exponent);
    EXPECT_NE(bits & ~exponent & 0x7FFF, 0) << "a NaN became an infinity in " << dtype;
  }
}

TEST_F(SafetensorsTest, ReadsEveryShardThatTheIndexNames) {
  test::write_tensors(dir.path() / "one.safetensors", {{{"a", "F32", {2}}, {1, 2}}});
  test::write_tensors(dir.path() / "two.safetensors", {{{"b", "F32", {1}}, {3}}});
  write_json(dir.path() / "model.safetensors.index.json",
             {{"weight_map", {{"a", "one.safetensors"}, {"b", "two.safetensors"}}}});
  EXPECT_THAT(TensorFiles::open(dir.path()).names(), ElementsAre("a", "b"));
  EXPECT_THAT(read("a", 0, 2), ElementsAre(1, 2));
  EXPECT_THAT(read("b", 0, 1), ElementsAre(3));
}

TEST_F(SafetensorsTest, ASingleFileWinsOverAnIndexAsInHuggingFace) {
  test::write_tensors(file, {{{"a", "F32", {1}}, {7}}});
  write_json(dir.path() / "model.safetensors.index.json", {{"weight_map", {{"a", "gone.safetensors"}}}});
  EXPECT_THAT(read("a", 0, 1), ElementsAre(7));
}

TEST_F(SafetensorsTest, AWrongIndexIsNamed) {
  const fs::path index = dir.path() / "model.safetensors.index.json";
  test::write_tensors(dir.path() / "one.safetensors", {{{"a", "F32", {1}}, {1}}});
  write_json(index, {{"weight_map", {{"a", "gone.safetensors"}}}});
  EXPECT_EQ(
      refusal(),
      "gone.safetensors: cannot be read: No such file or directory; check the path, its permissions and its disk");
  write_json(index, {{"weight_map", {{"a", "one.safetensors"}, {"b", "one.safetensors"}}}});
  EXPECT_EQ(refusal(), "model.safetensors.index.json: tensor b is not in one.safetensors");
  write_json(index, {{"weight_map", {{"a", "../one.safetensors"}}}});
  EXPECT_EQ(refusal(), "model.safetensors.index.json: tensor a has no file name but \"../one.safetensors\"");
  write_json(index, {{"weight_map", {{"a", 3}}}});
  EXPECT_EQ(refusal(), "model.safetensors.index.json: tensor a has no file name but 3");
  write_json(index, {{"metadata", {}}});
  EXPECT_EQ(refusal(), "model.safetensors.index.json: has no weight_map");
}

TEST_F(SafetensorsTest, ATensorInTwoShardsIsNamed) {
  test::write_tensors(dir.path() / "one.safetensors", {{{"a", "F32", {1}}}, {{"b", "F32", {1}}}});
  test::write_tensors(dir.path() / "two.safetensors", {{{"a", "F32", {1}}}});
  write_json(dir.path() / "model.safetensors.index.json",
             {{"weight_map", {{"a", "two.safetensors"}, {"b", "one.safetensors"}}}});
  EXPECT_EQ(refusal(), "two.safetensors: tensor a is in another file too");
}

TEST_F(SafetensorsTest, AnUnreadableFileIsNamed) {
  EXPECT_EQ(
      refusal(),
      "model.safetensors: cannot be read: No such file or directory; check the path, its permissions and its disk");
  std::ofstream(file) << "abc";
  EXPECT_EQ(refusal(), "model.safetensors: has 3 bytes, too few for a header");
  std::ofstream(file) << std::string("\x10\0\0\0\0\0\0\0{}", 10);
  EXPECT_EQ(refusal(), "model.safetensors: the header claims 16 bytes, the file has 10");
  EXPECT_EQ(test::error_of([&] { TensorFiles::open(file); }),
            file.string() + ": is no directory; name a Hugging Face model's");
}

TEST_F(SafetensorsTest, AWrongHeaderIsNamed) {
  EXPECT_THAT(refusal_of("{\"a\":", 0), testing::StartsWith("model.safetensors: the header is no valid JSON: "));
  EXPECT_EQ(refusal_of("[]", 0), "model.safetensors: the header is no JSON object");
  EXPECT_THAT(refusal_of(R"({"a":{"dtype":"F32","shape":[1]}})", 4),
              testing::StartsWith("model.safetensors: tensor a: "));
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", 4),
            "model.safetensors: tensor a has the unknown element type F33");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
            "model.safetensors: tensor a of shape [2] and type F32 cannot have the bytes 0 to 4");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}})", 4),
            "model.safetensors: tensor a of shape [-1, -1] and type F32 cannot have the bytes 0 to 4");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
            "model.safetensors: tensor a of shape [4294967296, 4294967296] and type F32 cannot have the bytes 0 to 0");
  EXPECT_EQ(refusal_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                       1),
            "model.safetensors: tensor a appears twice in the header");
}

TEST_F(SafetensorsTest, WrongOffsetsAreNamed) {
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  EXPECT_EQ(refusal_of(two("[0,4]", "[2,6]"), 8),
            "model.safetensors: tensor b begins at byte 2, the one before ends at 4");
  EXPECT_EQ(refusal_of(two("[0,4]", "[5,9]"), 9), "no error");  // a byte of no tensor
  EXPECT_EQ(refusal_of(two("[0,4]", "[4,8]"), 7),
            "model.safetensors: tensor b ends at byte 8, the file has 7; it may be cut off");
  EXPECT_EQ(refusal_of(two("[0,4]", "[4,8]"), 9), "model.safetensors: has 9 bytes of data, the header names 8");
  EXPECT_EQ(refusal_of(two("[4,8]", "[0,4]"), 8), "no error");
}

TEST_F(SafetensorsTest, ATensorOfTheWrongTypeOrNameIsNamed) {
  test::write_tensors(file, {{{"a", "I64", {2}}}, {{"b", "F32", {1}}}});
  const auto files = TensorFiles::open(dir.path());
  const std::string where = dir.path().string();
  float value = 0;
  EXPECT_EQ(test::error_of([&] {
              files.read("a", 0, {&value, 1});
            }),
            where + ": tensor a has type I64; F32, BF16, F16 or F64 is needed");
  EXPECT_EQ(test::error_of([&] { files.read_int64("b"); }), where + ": tensor b has type F32; I64 is needed");
  EXPECT_EQ(test::error_of([&] { files.info("c"); }), where + ": tensor c is missing");
}

TEST_F(SafetensorsTest, WritesTheHeaderOfHuggingFaceAndDataOnAMultipleOfEightBytes) {
  test::write_tensors(file, {{{"a", "BF16", {3}}, {1, 2, 3}}});
  std::ifstream in(file, std::ios::binary);
  std::uint64_t length = 0;
  in.read(reinterpret_cast<char*>(&length), sizeof(length));
  std::string header(length, ' ');
  in.read(header.data(), static_cast<std::streamsize>(length));
  EXPECT_EQ(length % 8, 0u);
  EXPECT_EQ(Json::parse(header),
            Json::parse(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]}})"));
  EXPECT_EQ(fs::file_size(file), 8 + length + 6);
}

TEST_F(SafetensorsTest, AnUnfinishedFileHasNoName) {
  {
    SafetensorsWriter writer(file, {{"a", "U8", {2}}});
    writer.append(std::vector<std::byte>(1));
  }
  EXPECT_FALSE(fs::exists(file));
  EXPECT_THAT(test::error_of([&] { SafetensorsWriter(dir.path() / "gone" / "x.safetensors", {}); }),
              testing::HasSubstr("gone/x.safetensors.partial: cannot be written"));
}

TEST_F(SafetensorsTest, PiecesInAnyOrderByTwoWritersMakeTheSameFileAsOneWriter) {
  const std::vector<TensorEntry> tensors = {{"a", "I64", {2}}, {"b", "F32", {3}}, {"c", "BF16", {1}}};
  std::vector<std::byte> data(16 + 12 + 2);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  SafetensorsWriter whole(file, tensors);
  whole.append(data);
  whole.finish();

  const fs::path other = dir.path() / "pieces.safetensors";
  SafetensorsFile::create(other, tensors);
  SafetensorsFile first(other, tensors), second(other, tensors);
  second.write(7, std::span(data).subspan(7));
  first.write(0, std::span(data).first(7));
  first.sync();
  second.sync();
  EXPECT_EQ(contents(other), contents(file));
  EXPECT_THAT(data_offsets(tensors), ElementsAre(0, 16, 28, 30));
}

TEST_F(SafetensorsTest, ACopyOfBytesIsWhatTheFileHas) {
  test::write_tensors(file, {{{"a", "F32", {1}}, {7}}, {{"b", "F32", {3}}, {1, 2, 3}}});
  const auto files = TensorFiles::open(dir.path());
  std::vector<std::byte> copy(8);
  files.copy_bytes("b", 4, copy);
  EXPECT_TRUE(std::ranges::equal(copy, files.bytes("b").subspan(4)));

  fs::resize_file(file, fs::file_size(file) - 4);
  EXPECT_THAT(test::error_of([&] { files.copy_bytes("b", 4, copy); }),
              testing::HasSubstr("model.safetensors: cannot be read: it was cut off"));
}

}  // namespace
}  // namespace mtp::hf
