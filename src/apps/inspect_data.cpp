#include "inspect_data.h"

#include <fmt/ranges.h>
#include <png.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <functional>
#include <iostream>
#include <optional>
#include <regex>
#include <span>
#include <string>
#include <vector>

#include "mtp/core/error.h"
#include "mtp/data/data_file.h"
#include "mtp/hf/vocabulary.h"
#include "print_line.h"

namespace mtp::apps {
namespace {

namespace fs = std::filesystem;

void print_lengths(const data::DataFile& file) {
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < file.samples(); ++i) lengths.push_back(file.length(i));
  std::ranges::sort(lengths);
  const auto reaches = [&](std::size_t percent) { return lengths[(lengths.size() - 1) * percent / 100]; };
  print_line("lengths", "{} shortest, {} median, {} at 90 %, {} at 99 %, {} longest", reaches(0), reaches(50),
             reaches(90), reaches(99), reaches(100));
}

struct Picture {
  std::int64_t width = 0, height = 0;  // pixels
  std::vector<std::uint8_t> rgb;       // [height, width, 3]
};

/// Patches put back together.
Picture picture_of(const data::ImageSets& sets, std::int64_t image) {
  const auto side = static_cast<std::int64_t>(std::sqrt(static_cast<double>(sets.patch_bytes() / 3)));
  if (3 * side * side != sets.patch_bytes())
    throw Error("image {} has patches of {} bytes, which are no squares of pixels", image, sets.patch_bytes());
  const auto [columns, rows] = sets.size(image);
  const std::vector<std::uint8_t> patches = sets.read(image);
  Picture picture{.width = columns * side, .height = rows * side, .rgb = std::vector<std::uint8_t>(patches.size())};
  for (std::int64_t patch = 0; patch < columns * rows; ++patch)
    for (std::int64_t line = 0; line < side; ++line) {
      const std::int64_t x = patch % columns * side, y = patch / columns * side + line;
      std::copy_n(&patches[patch * sets.patch_bytes() + line * side * 3], side * 3,
                  &picture.rgb[(y * picture.width + x) * 3]);
    }
  return picture;
}

void write_png(const fs::path& path, const Picture& picture) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(picture.width);
  image.height = static_cast<png_uint_32>(picture.height);
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, path.c_str(), 0, picture.rgb.data(), 0, nullptr) == 0)
    throw Error("{}: cannot be written: {}", path.string(), image.message);
}

/// What is shown in place of an image's tokens.
std::string write_image(const data::ImageSets& sets, std::int64_t image, const fs::path& path) {
  const Picture picture = picture_of(sets, image);
  write_png(path, picture);
  return fmt::format("⟨{} tokens of {}, {} × {} pixels⟩", sets.soft_tokens(image), path.string(), picture.width,
                     picture.height);
}

/// What a sample shows beside text, one kind of it.
struct Shown {
  const data::MediaSets& sets;
  std::int64_t next;                                 // the first that is still to come
  std::function<std::string(std::int64_t)> summary;  // what is shown in place of its tokens
  std::int64_t left = 0;                             // of the tokens of the one before
};

/// As text, or as ids where there is no vocabulary.
std::string shown(const std::vector<std::int64_t>& ids, const hf::Vocabulary* vocabulary) {
  if (vocabulary == nullptr) return fmt::format("{}", fmt::join(ids, " "));
  return std::regex_replace(vocabulary->text(ids), std::regex("\n"), "⏎\n");
}

}  // namespace

void inspect_data(const fs::path& path) {
  const data::DataFile file(path);
  const data::Summary summary = file.check_all();
  print_line("kind", "data file");
  print_line("vocabulary", "{} tokens, pad {}", file.vocab_size(), file.pad_token_id());
  print_line("tokenizer", "{}", file.tokenizer().value_or("not recorded"));
  print_line("samples", "{}", summary.samples);
  print_line("tokens", "{}", summary.tokens);
  print_line("targets", "{}", summary.targets);
  print_line("mean length", "{:.1f}", summary.mean_length);
  print_lengths(file);
  if (file.images())
    print_line("images", "{} of {} patches, {} patches a token, {} bytes", summary.images, summary.patches,
               file.images()->patches_per_token(), summary.image_bytes);
  if (file.audio())
    print_line("clips of sound", "{} of {} frames of {} numbers, {} frames a token", summary.clips, summary.frames,
               file.audio()->frame_size(), file.audio()->frames_per_token());
}

void print_sample(const fs::path& path, std::int64_t number, const fs::path& tokenizer, const fs::path& images) {
  const data::DataFile file(path);
  if (number < 0 || number >= file.samples())
    throw UsageError("option --sample: {} has the samples 0 to {}, not {}", path.string(), file.samples() - 1, number);
  std::optional<hf::Vocabulary> vocabulary;
  if (!tokenizer.empty()) {
    file.check_tokenizer(tokenizer);
    vocabulary.emplace(tokenizer);
  }
  const data::Sample sample = file.sample(number);
  std::vector<Shown> media;
  if (file.images())
    media.push_back({*file.images(), file.images()->first(number), [&](std::int64_t image) {
                       const std::string name = fmt::format("{}_{}_{}.png", path.stem().string(), number, image);
                       return write_image(*file.images(), image, images / name);
                     }});
  if (file.audio())
    media.push_back({*file.audio(), file.audio()->first(number), [&](std::int64_t clip) {
                       return fmt::format("⟨{} tokens of clip {}, {} frames⟩", file.audio()->soft_tokens(clip), clip,
                                          file.audio()->frames(clip));
                     }});
  const auto of = [&](std::size_t t) {
    return std::ranges::find(media, sample.tokens[t], [](const Shown& shown) { return shown.sets.token_id(); });
  };
  for (std::size_t begin = 0, end = 0; begin < sample.tokens.size(); begin = end) {
    std::string text;
    if (const auto shown_here = of(begin); shown_here != media.end()) {
      if (shown_here->left == 0) {
        text = shown_here->summary(shown_here->next);
        shown_here->left = shown_here->sets.soft_tokens(shown_here->next++);
      }
      for (; shown_here->left > 0 && of(end) == shown_here; --shown_here->left) ++end;
    } else {
      while (end < sample.tokens.size() && sample.is_target[end] == sample.is_target[begin] && of(end) == media.end())
        ++end;
      const std::vector<std::int64_t> ids(sample.tokens.begin() + begin, sample.tokens.begin() + end);
      text = shown(ids, vocabulary ? &*vocabulary : nullptr);
    }
    std::cout << (sample.is_target[begin] != 0 ? "⟦" + text + "⟧" : text) << (vocabulary ? "" : " ");
  }
  std::cout << "\n";
}

}  // namespace mtp::apps
