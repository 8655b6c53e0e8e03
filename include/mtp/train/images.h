#pragma once

#include <optional>

#include "mtp/data/image_sets.h"
#include "mtp/hf/config.h"
#include "mtp/model/image_encoder.h"

// Where the images of data files meet the models that see them.

namespace mtp::train {

/// What a base takes of images; none: it is a model of text alone.
std::optional<data::VisionInput> vision_input(const hf::BaseConfig& base);

/// Images as a model takes them, which must outlive the result; none where there is none.
std::optional<model::ImageInput> image_input(const data::Images& images);

}  // namespace mtp::train
