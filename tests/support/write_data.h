#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "mtp/core/hdf5.h"

namespace mtp::test {

/// The parts of a data file as they are written, so that a test can break one of them.
struct DataParts {
  std::string format = "mtp-data";
  std::int64_t version = 1, vocab_size = 100, pad_token_id = 0;
  std::vector<std::int32_t> tokens;
  std::vector<std::uint8_t> loss_mask;
  std::vector<std::int64_t> offsets{0};
  // Of images, which a file has where `image_offsets` is not empty.
  std::int64_t image_token_id = 90, patches_per_image_token = 4, patch_bytes = 12;
  std::vector<std::uint8_t> patches;
  std::vector<std::int32_t> image_sizes;
  std::vector<std::int64_t> image_offsets, sample_images;

  // Of clips of sound, which a file has where `audio_offsets` is not empty.
  std::int64_t audio_token_id = 80, frames_per_audio_token = 2, frame_size = 3;
  std::vector<float> audio_features;
  std::vector<std::int64_t> audio_offsets, sample_audios;

  /// Appends a sample; every token is a target unless a mask says otherwise.
  void add(const std::vector<std::int32_t>& sample, std::vector<std::uint8_t> mask = {}) {
    mask.resize(sample.size(), mask.empty() ? 1 : 0);
    tokens.insert(tokens.end(), sample.begin(), sample.end());
    loss_mask.insert(loss_mask.end(), mask.begin(), mask.end());
    offsets.push_back(static_cast<std::int64_t>(tokens.size()));
    if (!sample_images.empty()) sample_images.push_back(std::ssize(image_offsets) - 1);
    if (!sample_audios.empty()) sample_audios.push_back(std::ssize(audio_offsets) - 1);
  }
  /// Appends an image of the next sample's, all of whose bytes are `value`.
  void add_image(std::int32_t width, std::int32_t height, std::uint8_t value) {
    if (sample_images.empty()) {
      image_offsets = {0};
      sample_images.assign(offsets.size(), 0);
    }
    image_sizes.insert(image_sizes.end(), {width, height});
    image_offsets.push_back(image_offsets.back() + width * height);
    patches.resize(image_offsets.back() * patch_bytes, value);
  }
  /// Appends a clip of the next sample's, all of whose numbers are `value`.
  void add_clip(std::int64_t frames, float value) {
    if (sample_audios.empty()) {
      audio_offsets = {0};
      sample_audios.assign(offsets.size(), 0);
    }
    audio_offsets.push_back(audio_offsets.back() + frames);
    audio_features.resize(audio_offsets.back() * frame_size, value);
  }
};

template <typename T>
void write_dataset(hdf5::File& file, const std::string& name, const std::vector<T>& values) {
  file.create_dataset<T>(name, {static_cast<std::int64_t>(values.size())}).write(0, std::span(values));
}

/// Rows of `width` values.
template <typename T>
void write_table(hdf5::File& file, const std::string& name, const std::vector<T>& values, std::int64_t width) {
  file.create_dataset<T>(name, {std::ssize(values) / width, width}).write(0, std::span(values));
}

inline void write_images(hdf5::File& file, const DataParts& parts) {
  file.set_attribute("image_token_id", parts.image_token_id);
  file.set_attribute("patches_per_image_token", parts.patches_per_image_token);
  write_table(file, "patches", parts.patches, parts.patch_bytes);
  write_table(file, "image_sizes", parts.image_sizes, 2);
  write_dataset(file, "image_offsets", parts.image_offsets);
  write_dataset(file, "sample_images", parts.sample_images);
}

inline void write_audio(hdf5::File& file, const DataParts& parts) {
  file.set_attribute("audio_token_id", parts.audio_token_id);
  file.set_attribute("frames_per_audio_token", parts.frames_per_audio_token);
  write_table(file, "audio_features", parts.audio_features, parts.frame_size);
  write_dataset(file, "audio_offsets", parts.audio_offsets);
  write_dataset(file, "sample_audios", parts.sample_audios);
}

inline void write_data(const std::filesystem::path& path, const DataParts& parts) {
  hdf5::File file = hdf5::File::create(path);
  file.set_attribute("format", parts.format);
  file.set_attribute("version", parts.version);
  file.set_attribute("vocab_size", parts.vocab_size);
  file.set_attribute("pad_token_id", parts.pad_token_id);
  write_dataset(file, "tokens", parts.tokens);
  write_dataset(file, "loss_mask", parts.loss_mask);
  write_dataset(file, "offsets", parts.offsets);
  if (!parts.image_offsets.empty()) write_images(file, parts);
  if (!parts.audio_offsets.empty()) write_audio(file, parts);
  file.close();
}

}  // namespace mtp::test
