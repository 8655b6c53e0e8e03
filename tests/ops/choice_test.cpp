#include "mtp/ops/choice.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "ops/losses.h"

namespace mtp::ops::test {
namespace {

Labels choices_of(const Device& device, const Tensor& choices) {
  Labels values(static_cast<std::size_t>(choices.elements()));
  device.to_host(choices, values);
  return values;
}

/// The first token of the largest logit among those for which is_selected(token), at rows with a label.
template <typename IsSelected>
Labels plain_choices(const Array& logits, const Labels& labels, const IsSelected& is_selected) {
  Labels choices(labels.size(), no_label);
  for (std::int64_t t = 0; t < logits.size(0); ++t)
    for (std::int64_t v = 0; labels[t] >= 0 && v < logits.size(1); ++v)
      if (is_selected(t, v) && (choices[t] < 0 || logits(t, v) > logits(t, choices[t]))) choices[t] = v;
  return choices;
}

class ChoiceTest : public DeviceTest {
 protected:
  Labels projected(const Array& x, const Array& w, const Labels& labels) {
    Device device = make_device(GetParam());
    const Tensor choices = device.empty({x.size(0)}, DType::i64);
    projected_choice(device, to_device(device, x), to_device(device, w), device.from_host(labels), choices);
    logits_bytes = device.accounts().of(MemoryUse::logits);
    return choices_of(device, choices);
  }
  Labels masked(const Array& centroids, const Labels& ordering, std::int64_t top_k, const Array& x, const Array& w,
                const Labels& labels) {
    Device device = make_device(GetParam());
    const MaskedHead head{to_device(device, centroids), device.from_host(ordering), top_k};
    const Tensor choices = device.empty({x.size(0)}, DType::i64);
    masked_choice(device, head, to_device(device, x), to_device(device, w), device.from_host(labels), choices);
    return choices_of(device, choices);
  }

  std::int64_t logits_bytes = 0;
};
INSTANTIATE_TEST_SUITE_P(Devices, ChoiceTest, testing::ValuesIn(device_kinds()), device_name);

TEST_P(ChoiceTest, TheLargestLogitIsChosenWhereThereIsALabel) {
  const std::int64_t rows = 420, vocabulary = 33;  // two chunks
  const Array x = random_array({rows, 8}, 1), w = random_array({vocabulary, 8}, 2);
  const Labels labels = some_labels(rows, vocabulary);
  EXPECT_EQ(projected(x, w, labels), plain_choices(product(x, w), labels, [](auto, auto) { return true; }));
}

TEST_P(ChoiceTest, TheMaskedHeadChoosesAmongTheTokensOfItsCentroids) {
  const std::int64_t rows = 420, vocabulary = 48, centroids = 6, tokens = vocabulary / centroids, top_k = 2;
  const Array x = random_array({rows, 8}, 1), w = random_array({vocabulary, 8}, 2), c = random_array({centroids, 8}, 3);
  Labels ordering(vocabulary), centroid_of(vocabulary);
  std::iota(ordering.begin(), ordering.end(), 0);
  std::shuffle(ordering.begin(), ordering.end(), std::mt19937(4));
  for (std::int64_t i = 0; i < vocabulary; ++i) centroid_of[ordering[i]] = i / tokens;

  const Array near = product(x, c);
  const auto is_selected = [&](std::int64_t t, std::int64_t token) {
    std::int64_t nearer = 0;
    for (std::int64_t other = 0; other < centroids; ++other) nearer += near(t, other) > near(t, centroid_of[token]);
    return nearer < top_k;
  };
  const Labels labels = some_labels(rows, vocabulary);
  EXPECT_EQ(masked(c, ordering, top_k, x, w, labels), plain_choices(product(x, w), labels, is_selected));
}

TEST_P(ChoiceTest, OfEqualLogitsTheLowestTokenIsChosen) {
  const Array x({1, 1}, {1}), w({6, 1}, {0, 2, 1, 2, 2, 0});
  EXPECT_EQ(projected(x, w, {0}), Labels{1});
  // The nearer centroid has tokens 4, 3 and 5, the other 2, 1 and 0.
  EXPECT_EQ(masked(Array({2, 1}, {2, 1}), {4, 3, 5, 2, 1, 0}, 1, x, w, {0}), Labels{3});
  EXPECT_EQ(masked(Array({2, 1}, {2, 1}), {4, 3, 5, 2, 1, 0}, 2, x, w, {0}), Labels{1});
}

TEST_P(ChoiceTest, LogitsExistForAChunkOfRowsAtATime) {
  const std::int64_t rows = 4096, vocabulary = 512;
  const auto bytes_for = [&](std::int64_t count) {
    projected(random_array({count, 2}, 1), random_array({vocabulary, 2}, 2), Labels(count, 3));
    return logits_bytes;
  };
  EXPECT_LT(bytes_for(2 * rows) - bytes_for(rows), rows * vocabulary * static_cast<std::int64_t>(sizeof(float)) / 4);
}

}  // namespace
}  // namespace mtp::ops::test
