#include "mtp/train/images.h"

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

std::optional<model::ImageInput> image_input(const data::Images& images) {
  if (images.grids.empty()) return std::nullopt;
  return std::optional<model::ImageInput>(std::in_place, images.grids, images.patches, images.rows);
}

}  // namespace mtp::train
