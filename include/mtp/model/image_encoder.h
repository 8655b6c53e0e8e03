#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "mtp/core/settings.h"
#include "mtp/graph/tape.h"
#include "mtp/hf/config.h"
#include "mtp/hf/safetensors.h"
#include "mtp/model/soft_tokens.h"
#include "mtp/model/tensors.h"
#include "mtp/ops/vision.h"

namespace mtp::model {

// Letters in names: R rows of soft tokens · H width of the text model.

/// A micro-batch's images on the host.
struct ImageInput {
  const ops::PatchGrids& grids;
  std::span<const std::uint8_t> patches;  // [grids.rows(), 3 · side²] bytes of pixels
  std::span<const std::int64_t> rows;     // [R] the row of the packed sequences whose input each soft token is
};

/// What a base sees images with: it makes soft tokens of them. Its graph's sequences are the images:
/// `ImageInput::grids.sequences()`.
class ImageEncoder {
 public:
  /// That of a base, whose tensors it declares in `all`, which have the whole names of the file; null where the base
  /// takes no images.
  static std::unique_ptr<ImageEncoder> of(const hf::BaseConfig& config, const Tensors& all,
                                          const Settings::Freeze& freeze);
  virtual ~ImageEncoder() = default;

  /// Throws Error where one is missing or has another shape.
  virtual void read_buffers(const hf::TensorFiles& files) = 0;

  /// Whether anything of it is trained: else nothing is kept for a backward.
  virtual bool trained() const = 0;

  /// The soft tokens of all images, image after image.   [R, H]
  /// `grids` must live until the graph's backward is done.
  /// `bytes`: of their pixels, patch after patch.
  virtual Value forward(Tape& g, const ops::PatchGrids& grids, std::span<const std::uint8_t> bytes) const = 0;

  /// The smallest image.
  virtual ops::PatchGrids::Size blank_size() const = 0;
  virtual std::int64_t patch_bytes() const = 0;

 protected:
  /// Patches as numbers of a type.   [P, patch_bytes()]
  Tensor pixels(Device& device, std::span<const std::uint8_t> bytes, const ops::PixelRange& range, DType dtype) const;
};

/// One run of an encoder, on a tape of its own: on a micro-batch's images; or on a blank one, whose soft tokens nobody
/// uses, so that its gradient is exactly zero. What is passed by reference must outlive it.
class VisionPass {
 public:
  VisionPass(Device& device, const ImageEncoder& encoder, const std::optional<ImageInput>& images,
             Tape::Options options);

  /// None of a blank image.
  const std::optional<SoftTokens>& soft_tokens() const { return soft_tokens_; }
  /// After the backward of what used the soft tokens.
  void backward() { tape_.backward(); }

 private:
  ops::PatchGrids grids_;
  ops::Sequences sequences_;
  Tape tape_;
  std::optional<SoftTokens> soft_tokens_;
};

}  // namespace mtp::model
