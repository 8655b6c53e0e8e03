#include "mtp/model/audio_encoder.h"

#include "mtp/model/audio_tower.h"
#include "mtp/model/frame_projector.h"

namespace mtp::model {

namespace {

constexpr std::int64_t silence[] = {1};  // frames of its only clip

std::span<const std::int64_t> lengths_of(const std::optional<ClipInput>& clips) {
  return clips ? clips->lengths : std::span(silence);
}

ops::Sequences sequences_of(const AudioEncoder& encoder, std::span<const std::int64_t> lengths) {
  std::vector<std::int64_t> soft_tokens;
  for (const std::int64_t frames : lengths) soft_tokens.push_back(encoder.soft_tokens(frames));
  return ops::Sequences(soft_tokens);
}

}  // namespace

std::unique_ptr<AudioEncoder> AudioEncoder::of(const hf::BaseConfig& config, const Tensors& all,
                                               const Settings::Freeze& freeze) {
  const std::int64_t hidden = config.text.hidden_size;
  if (config.audio) return std::make_unique<AudioTower>(all, *config.audio, hidden, freeze);
  if (config.frame_projector) return std::make_unique<FrameProjector>(all, *config.frame_projector, hidden, freeze);
  return nullptr;
}

AudioPass::AudioPass(Device& device, const AudioEncoder& encoder, const std::optional<ClipInput>& clips,
                     Tape::Options options)
    : sequences_(sequences_of(encoder, lengths_of(clips))), tape_(device, sequences_, options) {
  if (clips)
    soft_tokens_ = {encoder.forward(tape_, clips->lengths, clips->frames), device.from_host(clips->rows)};
  else
    encoder.forward(tape_, silence, std::vector<float>(encoder.frame_size()));
}

}  // namespace mtp::model
