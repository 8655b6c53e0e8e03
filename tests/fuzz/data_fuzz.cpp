// What a data file holds, from bytes: a valid HDF5 file whose attributes, shapes and contents are the fuzzer's, read
// whole. Not the bytes of the file itself: HDF5 1.10 leaks and asks for absurd amounts of memory on a damaged one,
// which is not ours to find.

#include <fuzzer/FuzzedDataProvider.h>

#include "fuzz/fuzz.h"
#include "mtp/core/hdf5.h"
#include "mtp/data/data_file.h"

namespace {

using namespace mtp;

/// A dataset, mostly of so many small elements in one dimension.
template <typename T>
void write_dataset(hdf5::File& file, const char* name, std::size_t elements, FuzzedDataProvider& bytes) {
  if (bytes.ConsumeIntegralInRange(0, 31) == 0) return;  // missing
  if (bytes.ConsumeIntegralInRange(0, 15) == 0) elements = bytes.ConsumeIntegralInRange<std::size_t>(0, 32);
  std::vector<T> values(elements);
  for (T& value : values) value = bytes.ConsumeIntegralInRange<T>(0, 1);
  if (!values.empty() && bytes.ConsumeIntegralInRange(0, 3) == 0)
    values[bytes.ConsumeIntegralInRange<std::size_t>(0, values.size() - 1)] = bytes.ConsumeIntegral<T>();
  std::vector<std::int64_t> shape{std::ssize(values)};
  if (bytes.ConsumeIntegralInRange(0, 31) == 0) shape.push_back(1);
  file.create_dataset<T>(name, shape).write(0, std::span<const T>(values));
}

std::vector<std::int64_t> write_sorted_offsets(hdf5::File& file, FuzzedDataProvider& bytes) {
  std::vector<std::int64_t> offsets{0};
  for (int i = bytes.ConsumeIntegralInRange(1, 5); i > 0; --i)
    offsets.push_back(offsets.back() + bytes.ConsumeIntegralInRange<std::int64_t>(1, 6));
  file.create_dataset<std::int64_t>("offsets", {std::ssize(offsets)}).write(0, std::span<const std::int64_t>(offsets));
  return offsets;
}

/// A few small images of the samples, most of whose numbers belong together.
void write_images(hdf5::File& file, std::size_t samples, FuzzedDataProvider& bytes) {
  for (const char* name : {"image_token_id", "patches_per_image_token"})
    file.set_attribute(name,
                       bytes.ConsumeIntegralInRange(0, 15) ? std::int64_t{1} : bytes.ConsumeIntegral<std::int64_t>());
  std::vector<std::int32_t> sizes;
  std::vector<std::int64_t> offsets{0}, of_samples{0};
  for (std::size_t i = 0; i < samples; ++i) {
    for (int images = bytes.ConsumeIntegralInRange(0, 2); images > 0; --images) {
      const auto width = bytes.ConsumeIntegralInRange(1, 3), height = bytes.ConsumeIntegralInRange(1, 2);
      sizes.insert(sizes.end(), {width, height});
      offsets.push_back(offsets.back() + width * height);
    }
    of_samples.push_back(std::ssize(offsets) - 1);
  }
  if (bytes.ConsumeBool()) {
    std::vector<std::int64_t>& broken = bytes.ConsumeBool() ? offsets : of_samples;
    broken[bytes.ConsumeIntegralInRange<std::size_t>(0, broken.size() - 1)] = bytes.ConsumeIntegral<std::int64_t>();
  }
  if (!sizes.empty() && bytes.ConsumeBool())
    sizes[bytes.ConsumeIntegralInRange<std::size_t>(0, sizes.size() - 1)] = bytes.ConsumeIntegral<std::int32_t>();
  const auto patches = bytes.ConsumeIntegralInRange(0, 15) ? (std::ssize(offsets) > 1 ? offsets.back() : 0) : 3;
  if (patches < 0 || patches > 64) return;
  const std::vector<std::uint8_t> pixels(patches * 3);
  file.create_dataset<std::uint8_t>("patches", {patches, 3}).write(0, std::span(pixels));
  file.create_dataset<std::int32_t>("image_sizes", {std::ssize(sizes) / 2, 2})
      .write(0, std::span(std::as_const(sizes)));
  file.create_dataset<std::int64_t>("image_offsets", {std::ssize(offsets)}).write(0, std::span(std::as_const(offsets)));
  file.create_dataset<std::int64_t>("sample_images", {std::ssize(of_samples)})
      .write(0, std::span(std::as_const(of_samples)));
}

/// A few short clips of the samples, as above.
void write_clips(hdf5::File& file, std::size_t samples, FuzzedDataProvider& bytes) {
  for (const char* name : {"audio_token_id", "frames_per_audio_token"})
    file.set_attribute(name,
                       bytes.ConsumeIntegralInRange(0, 15) ? std::int64_t{1} : bytes.ConsumeIntegral<std::int64_t>());
  std::vector<std::int64_t> offsets{0}, of_samples{0};
  for (std::size_t i = 0; i < samples; ++i) {
    for (int clips = bytes.ConsumeIntegralInRange(0, 2); clips > 0; --clips)
      offsets.push_back(offsets.back() + bytes.ConsumeIntegralInRange(1, 3));
    of_samples.push_back(std::ssize(offsets) - 1);
  }
  const auto frames = bytes.ConsumeIntegralInRange(0, 15) ? offsets.back() : 3;
  if (bytes.ConsumeBool()) {
    std::vector<std::int64_t>& broken = bytes.ConsumeBool() ? offsets : of_samples;
    broken[bytes.ConsumeIntegralInRange<std::size_t>(0, broken.size() - 1)] = bytes.ConsumeIntegral<std::int64_t>();
  }
  std::vector<float> features(frames * 2, 0.5f);
  if (!features.empty()) features.back() = bytes.ConsumeFloatingPoint<float>();
  file.create_dataset<float>("audio_features", {frames, 2}).write(0, std::span(std::as_const(features)));
  file.create_dataset<std::int64_t>("audio_offsets", {std::ssize(offsets)}).write(0, std::span(std::as_const(offsets)));
  file.create_dataset<std::int64_t>("sample_audios", {std::ssize(of_samples)})
      .write(0, std::span(std::as_const(of_samples)));
}

void write_data(const std::filesystem::path& path, FuzzedDataProvider& bytes) {
  hdf5::File file = hdf5::File::create(path);
  file.set_attribute("format", bytes.ConsumeIntegralInRange(0, 31) ? "mtp-data" : bytes.ConsumeRandomLengthString(8));
  file.set_attribute("version", bytes.ConsumeIntegralInRange(0, 31) ? 1 : bytes.ConsumeIntegral<std::int64_t>());
  for (const char* name : {"vocab_size", "pad_token_id"}) {
    const bool is_small = bytes.ConsumeBool();
    file.set_attribute(
        name, is_small ? bytes.ConsumeIntegralInRange<std::int64_t>(0, 9) : bytes.ConsumeIntegral<std::int64_t>());
  }
  std::size_t tokens = 12, samples = 1;
  if (bytes.ConsumeBool()) {
    const auto offsets = write_sorted_offsets(file, bytes);
    tokens = static_cast<std::size_t>(offsets.back());
    samples = offsets.size() - 1;
  } else {
    write_dataset<std::int64_t>(file, "offsets", 2, bytes);
  }
  if (bytes.ConsumeIntegralInRange(0, 15) == 0)
    write_dataset<std::int64_t>(file, "tokens", tokens, bytes);
  else
    write_dataset<std::int32_t>(file, "tokens", tokens, bytes);
  write_dataset<std::uint8_t>(file, "loss_mask", tokens, bytes);
  if (bytes.ConsumeBool()) write_images(file, samples, bytes);
  if (bytes.ConsumeBool()) write_clips(file, samples, bytes);
  file.close();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider bytes(data, size);
  // HDF5 creates files only where they have a real path, which fuzz::MemoryFile has not.
  const std::filesystem::path path = "/dev/shm/mtp-fuzz-" + std::to_string(getpid()) + ".h5";
  write_data(path, bytes);
  fuzz::may_refuse([&] { data::DataFile(path).check_all(); });
  std::filesystem::remove(path);
  return 0;
}
