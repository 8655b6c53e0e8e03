#include "mtp/model/image_encoder.h"

#include <cstring>

#include "mtp/model/patch_embedder.h"
#include "mtp/model/vision_tower.h"

namespace mtp::model {

std::unique_ptr<ImageEncoder> ImageEncoder::of(const hf::BaseConfig& config, const Tensors& all,
                                               const Settings::Freeze& freeze) {
  const std::int64_t hidden = config.text.hidden_size;
  if (config.vision) return std::make_unique<VisionTower>(all, *config.vision, hidden, freeze);
  if (config.patch_embedder) return std::make_unique<PatchEmbedder>(all, *config.patch_embedder, hidden, freeze);
  return nullptr;
}

Tensor ImageEncoder::pixels(Device& device, std::span<const std::uint8_t> bytes, const ops::PixelRange& range,
                            DType dtype) const {
  const Shape shape{std::ssize(bytes) / patch_bytes(), patch_bytes()};
  const Tensor on_host = device.empty_on_host(shape, DType::u8), on_device = device.empty(shape, DType::u8);
  MTP_ASSERT(std::ssize(bytes) == on_host.elements());
  std::memcpy(on_host.data<std::byte>(), bytes.data(), bytes.size());
  device.copy_from_host(on_host, on_device);
  const Tensor pixels = device.empty(shape, dtype);
  ops::pixels(device, range, on_device, pixels);
  return pixels;
}

namespace {

ops::PatchGrids grids_of(const ImageEncoder& encoder, const std::optional<ImageInput>& images) {
  if (images) return images->grids;
  ops::PatchGrids blank;
  blank.add(encoder.blank_size());
  return blank;
}

}  // namespace

VisionPass::VisionPass(Device& device, const ImageEncoder& encoder, const std::optional<ImageInput>& images,
                       Tape::Options options)
    : grids_(grids_of(encoder, images)), sequences_(grids_.sequences()), tape_(device, sequences_, options) {
  if (images)
    soft_tokens_ = {encoder.forward(tape_, grids_, images->patches), device.from_host(images->rows)};
  else
    encoder.forward(tape_, grids_, std::vector<std::uint8_t>(grids_.rows() * encoder.patch_bytes()));
}

}  // namespace mtp::model
