#pragma once

#include <optional>

#include "mtp/data/audio_sets.h"
#include "mtp/data/image_sets.h"
#include "mtp/hf/config.h"
#include "mtp/model/audio_encoder.h"
#include "mtp/model/image_encoder.h"

// Where the images and the sound of data files meet the models that see and hear them.

namespace mtp::train {

/// What a base takes of images and of sound; none: it takes none.
std::optional<data::VisionInput> vision_input(const hf::BaseConfig& base);
std::optional<data::AudioInput> audio_input(const hf::BaseConfig& base);

/// Images and clips as a model takes them, which must outlive the result; none where there is none.
std::optional<model::ImageInput> image_input(const data::Images& images);
std::optional<model::ClipInput> clip_input(const data::Clips& clips);

}  // namespace mtp::train
