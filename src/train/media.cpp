#include "mtp/train/media.h"

namespace mtp::train {

std::optional<data::VisionInput> vision_input(const hf::BaseConfig& base) {
  if (const auto& embedder = base.patch_embedder)
    return data::VisionInput{.image_token_id = base.image_token_id,
                             .patches_per_token = 1,
                             .patch_bytes = embedder->patch_values(),
                             .positions = embedder->position_embedding_size};
  if (!base.vision) return std::nullopt;
  return data::VisionInput{.image_token_id = base.image_token_id,
                           .patches_per_token = base.vision->patches_per_token(),
                           .patch_bytes = base.vision->patch_values(),
                           .positions = base.vision->position_embedding_size};
}

std::optional<data::AudioInput> audio_input(const hf::BaseConfig& base) {
  const std::int64_t id = base.audio_token_id;
  if (const auto& projector = base.frame_projector)
    return data::AudioInput{.audio_token_id = id, .frames_per_token = 1, .frame_size = projector->frame_size};
  if (!base.audio) return std::nullopt;
  return data::AudioInput{.audio_token_id = id,
                          .frames_per_token = hf::AudioConfig::frames_per_token,
                          .frame_size = base.audio->frame_size()};
}

std::optional<model::ImageInput> image_input(const data::Images& images) {
  if (images.grids.empty()) return std::nullopt;
  return std::optional<model::ImageInput>(std::in_place, images.grids, images.patches, images.rows);
}

std::optional<model::ClipInput> clip_input(const data::Clips& clips) {
  if (clips.lengths.empty()) return std::nullopt;
  return model::ClipInput{clips.lengths, clips.frames, clips.rows};
}

}  // namespace mtp::train
