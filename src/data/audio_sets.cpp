#include "mtp/data/audio_sets.h"

#include <algorithm>
#include <cmath>

#include "mtp/core/error.h"

namespace mtp::data {

std::optional<AudioSets> AudioSets::of(const TokenLists& lists) {
  for (const char* name : {"audio_features", "audio_offsets", "sample_audios"})
    if (lists.file().exists(name)) return AudioSets(lists);
  return std::nullopt;
}

AudioSets::AudioSets(const TokenLists& lists)
    : MediaSets(lists, {.name = "audio", .one = "a clip of sound", .many = "clips"}),
      frames_per_token_(lists.file().attribute<std::int64_t>("frames_per_audio_token")),
      features_(open_table(lists, "audio_features", frames())) {
  constexpr std::int64_t most = 1'000'000;
  if (frames_per_token_ < 1 || frames_per_token_ > most)
    throw Error("{}: attribute frames_per_audio_token is {}, it must be 1 to {}", where(), frames_per_token_, most);
  for (std::int64_t clip = 0; clip < count(); ++clip)
    if (frames(clip) == 0) throw Error("{}: clip {} has no frames", where(), clip);
}

std::vector<float> AudioSets::read(std::int64_t clip) const {
  std::vector<float> values(frames(clip) * frame_size());
  features_.read(offset(clip), std::span(values));
  if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); }))
    throw Error("{}: clip {} has numbers that are not finite; prepare the file anew", where(), clip);
  return values;
}

void AudioSets::append(std::int64_t i, std::int64_t shown, std::span<const std::int32_t> inputs, std::int64_t row,
                       Clips& clips) const {
  for (std::int64_t clip = first(i); clip < first(i) + shown; ++clip) {
    clips.lengths.push_back(frames(clip));
    const std::vector<float> values = read(clip);
    clips.frames.insert(clips.frames.end(), values.begin(), values.end());
  }
  append_rows(inputs, row, clips.rows);
}

void AudioSets::check_base(const std::filesystem::path& directory, const std::optional<AudioInput>& base) const {
  if (!base)
    throw Error("{} has sound, which the base {} does not take: it has no audio_config", where(), directory.string());
  if (token_id() != base->audio_token_id || frames_per_token_ != base->frames_per_token ||
      frame_size() != base->frame_size)
    throw Error(
        "{}: made for audio token {}, {} frames a token and {} numbers a frame, the base has {}, {} and {}; prepare it "
        "with the base's processor",
        where(), token_id(), frames_per_token_, frame_size(), base->audio_token_id, base->frames_per_token,
        base->frame_size);
}

}  // namespace mtp::data
