// Decoding of random pairs of every structure: with the drafter as without, and as the training's forward has it.

#include "mtp/decode/decoder.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include "decode/chi_square.h"
#include "decode/support.h"
#include "mtp/decode/cache.h"
#include "mtp/decode/rowwise_graph.h"
#include "mtp/ops/choice.h"
#include "mtp/ops/rowwise.h"
#include "support/error_of.h"

namespace mtp::decode {
namespace {

using test::LoadedPair;
using Ids = std::vector<std::int64_t>;

using test::vocabulary;

class DecoderTest : public testing::TestWithParam<std::string> {
 protected:
  DecoderTest() : loaded(test::with_small_vocabulary(GetParam()), 3) {}

  static Ids prompt(std::int64_t length, unsigned seed = 0) { return test::random_tokens(length, seed); }

  LoadedPair loaded;
};

INSTANTIATE_TEST_SUITE_P(Presets, DecoderTest, testing::Values("tiny", "e2b-mini", "e4b-mini", "31b-mini"),
                         [](const auto& preset) { return preset.param.substr(0, preset.param.find('-')); });

// Texts of up to ninety tokens, windows of 8 to 32: most keys of sliding layers have been dropped at the end.
TEST_P(DecoderTest, TheTokensWithTheDrafterAreThoseWithout) {
  std::int64_t accepted = 0, rejected = 0;
  for (const std::int64_t drafts : {1, 4, 7})
    for (const std::int64_t offset : {0, 1}) {
      const Decoder decoder = loaded.decoder({.drafts = drafts, .max_new_tokens = 50, .position_offset = offset});
      for (const std::int64_t length : {1, 40}) {
        const Ids text = prompt(length, static_cast<unsigned>(drafts));
        const Completion plain = decoder.complete(text, false), drafted = decoder.complete(text, true);
        EXPECT_EQ(drafted.output_ids, plain.output_ids) << drafts << " drafts, offset " << offset;
        EXPECT_EQ(plain.output_ids.size(), 50);
        EXPECT_EQ(plain.target_forwards, 50);
        EXPECT_EQ(drafted.target_forwards + drafted.accepted(), 50);
        accepted += drafted.accepted();
        rejected += drafted.drafted - drafted.accepted();
      }
    }
  EXPECT_GT(accepted, 20);
  EXPECT_GT(rejected, 20);
}

TEST_P(DecoderTest, TheTokensAreTheSameOnAnyThreads) {
  LoadedPair threaded(test::with_small_vocabulary(GetParam()), 3, {.number = 3});
  const Options options{.drafts = 4, .max_new_tokens = 40};
  EXPECT_EQ(threaded.decoder(options).complete(prompt(9), true).output_ids,
            loaded.decoder(options).complete(prompt(9), true).output_ids);
}

/// The base's final hidden states of a text, as training computes them.
Tensor hidden_in_training(LoadedPair& loaded, const Ids& text) {
  const ops::Sequences sequences({static_cast<std::int64_t>(text.size())});
  Tape g(loaded.device, sequences, {.recording = false});
  const model::BaseModel& base = loaded.pair.base;
  return base.forward(g, sequences, text, {}).hidden_TH.data;
}

/// The same as decoding computes them: a prefill, then `rows` at a time, of which it accepts `accepted`; the rejected
/// ones had other tokens.   [T - prefill, H]
std::vector<float> hidden_in_decoding(LoadedPair& loaded, const Ids& text, std::int64_t prefill, std::int64_t rows,
                                      std::int64_t accepted) {
  const model::BaseModel& base = loaded.pair.base;
  const auto length = static_cast<std::int64_t>(text.size());
  Device& device = loaded.device;
  Cache cache(device, loaded.pair.base_config.text, {.texts = 1, .positions = length + rows, .most_rows = rows},
              loaded.sharding.compute_dtype);
  const ops::Sequences sequences({prefill});
  PromptGraph first(device, sequences, cache, 0);
  base.forward(first, Tokens::on_device(device.from_host(std::span(text).first(prefill))));
  std::vector<float> all;
  for (std::int64_t at = prefill; at < length; at += accepted) {
    Ids ids;
    for (std::int64_t i = 0; i < rows; ++i) {
      const bool is_text = i < accepted && at + i < length;
      ids.push_back(is_text ? text[at + i] : (7 * at + i) % vocabulary);
    }
    Ids positions(ids.size());
    std::iota(positions.begin(), positions.end(), at);
    RowwiseGraph g(device, {device.from_host(positions), device.zeros({rows}, DType::i64)}, cache);
    const Tensor hidden = base.forward(g, Tokens::on_device(device.from_host(ids))).hidden_TH.data;
    std::vector<float> values(static_cast<std::size_t>(hidden.elements()));
    device.to_host(hidden, values);
    const std::int64_t taken = std::min(accepted, length - at) * hidden.size(1);
    all.insert(all.end(), values.begin(), values.begin() + taken);
  }
  return all;
}

TEST_P(DecoderTest, HiddenStatesHaveTheSameBitsHoweverTheTextIsVerified) {
  const Ids text = prompt(70);
  const std::vector<float> one_by_one = hidden_in_decoding(loaded, text, 11, 1, 1);
  for (const std::int64_t rows : {2, 3, 5, 8})
    for (const std::int64_t accepted : {std::int64_t{1}, rows - 1, rows}) {
      const std::vector<float> together = hidden_in_decoding(loaded, text, 11, rows, accepted);
      ASSERT_EQ(together.size(), one_by_one.size());
      EXPECT_EQ(std::memcmp(together.data(), one_by_one.data(), one_by_one.size() * sizeof(float)), 0)
          << rows << " rows, " << accepted << " accepted";
    }
}

TEST_P(DecoderTest, InBf16TokensAndHiddenStatesAreTheSameHoweverTheTextIsVerified) {
  LoadedPair rounded(test::with_small_vocabulary(GetParam()), 3, {.number = 2, .dtype = DType::bf16});
  const Ids text = prompt(70);
  const std::vector<float> one_by_one = hidden_in_decoding(rounded, text, 11, 1, 1);
  EXPECT_EQ(hidden_in_decoding(rounded, text, 11, 5, 3), one_by_one);

  std::int64_t accepted = 0;
  for (const std::int64_t length : {1, 40}) {
    const Decoder decoder = rounded.decoder({.drafts = 4, .max_new_tokens = 50});
    const Completion plain = decoder.complete(prompt(length), false), drafted = decoder.complete(prompt(length), true);
    EXPECT_EQ(drafted.output_ids, plain.output_ids);
    accepted += drafted.accepted();
  }
  EXPECT_GT(accepted, 2);
}

// bf16 has 8 bits: a hidden state of order one after some layers is off by some of its last.
TEST_P(DecoderTest, HiddenStatesInBf16AreNearThoseInFp32) {
  LoadedPair rounded(test::with_small_vocabulary(GetParam()), 3, {.number = 2, .dtype = DType::bf16});
  const Ids text = prompt(40);
  const auto hidden_of = [&](LoadedPair& pair) { return hidden_in_decoding(pair, text, 11, 3, 2); };
  const std::vector<float> got = hidden_of(rounded), want = hidden_of(loaded);
  double square = 0, difference = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    square += static_cast<double>(want[i]) * want[i];
    difference += static_cast<double>(got[i] - want[i]) * (got[i] - want[i]);
  }
  EXPECT_LT(std::sqrt(difference / square), 0.05);
  EXPECT_GT(difference, 0);
}

TEST_P(DecoderTest, BeforeAndAfterALongerTextATextIsTheSame) {
  const Decoder decoder = loaded.decoder({.drafts = 4, .max_new_tokens = 30});
  const Ids first = decoder.complete(prompt(5), true).output_ids;
  decoder.complete(prompt(300), true);
  EXPECT_EQ(decoder.complete(prompt(5), true).output_ids, first);
}

/// Completes prompts, so many at a time, the i-th with at most 20 - i new tokens.
std::vector<Completion> completions_of(const Decoder& decoder, const std::vector<Ids>& prompts, bool with_drafter) {
  std::vector<Completion> all(prompts.size());
  std::int64_t begun = 0;
  decoder.run(
      [&]() -> std::optional<Request> {
        if (begun == std::ssize(prompts)) return std::nullopt;
        Request request{.number = begun, .prompt = prompts[begun], .max_new_tokens = 20 - begun};
        ++begun;
        return request;
      },
      [&](const Request& request, Completion completion) { all[request.number] = std::move(completion); },
      with_drafter);
  return all;
}

// Texts come and go at different steps, some with an end token, and one needs more room than the others.
TEST_P(DecoderTest, ATextOfABatchIsThatOfASingleRun) {
  std::vector<Ids> prompts;
  for (const std::int64_t length : {3, 40, 1, 17, 250, 2, 9}) prompts.push_back(prompt(length, 7));
  for (const DType dtype : {DType::f32, DType::bf16}) {
    LoadedPair pair(test::with_small_vocabulary(GetParam()), 3, {.number = 2, .dtype = dtype});
    Options options{.drafts = 3};
    options.end_tokens = {completions_of(pair.decoder(options), {prompts[0]}, false)[0].output_ids.back()};
    for (const bool with_drafter : {false, true}) {
      if (dtype == DType::bf16 && !with_drafter) continue;  // has fewer rows of the same
      const std::vector<Completion> single = completions_of(pair.decoder(options), prompts, with_drafter);
      for (const std::int64_t batch : {3, 16}) {
        Options of_batch = options;
        of_batch.batch = batch;
        const std::vector<Completion> together = completions_of(pair.decoder(of_batch), prompts, with_drafter);
        for (std::size_t i = 0; i < prompts.size(); ++i) {
          EXPECT_EQ(together[i].output_ids, single[i].output_ids) << "prompt " << i << " in a batch of " << batch;
          EXPECT_EQ(together[i].target_forwards, single[i].target_forwards);
          EXPECT_EQ(together[i].drafted, single[i].drafted);
          EXPECT_EQ(together[i].accepted_at, single[i].accepted_at);
        }
      }
    }
  }
}

// What comes next may depend on what is complete: there may be none for a while.
TEST_P(DecoderTest, ATextMayFollowOneThatIsComplete) {
  const Decoder decoder = loaded.decoder({.batch = 3, .drafts = 3, .max_new_tokens = 6});
  Ids text = prompt(4);
  bool is_running = false;
  int turns = 0;
  decoder.run(
      [&] {
        std::optional<Request> request;
        if (!is_running && turns < 4) request.emplace(turns, text), is_running = true;
        return request;
      },
      [&](const Request& request, const Completion& completion) {
        EXPECT_EQ(request.prompt, text);
        text.insert(text.end(), completion.output_ids.begin(), completion.output_ids.end());
        is_running = false;
        ++turns;
      },
      true);
  const Ids whole = loaded.decoder({.max_new_tokens = 24}).complete(prompt(4), false).output_ids;
  EXPECT_EQ(Ids(text.begin() + 4, text.end()).size(), whole.size());
  EXPECT_EQ(turns, 4);
}

/// The probability of every text of `length` tokens after a prompt, by the base's logits after each beginning.
std::vector<double> probabilities(const Decoder& decoder, const Sampling& sampling, const Ids& prompt, int length) {
  if (length == 0) return {1};
  const Distribution first = distribution(sampling, decoder.logits_after(prompt));
  std::vector<double> all;
  for (std::int64_t token = 0; token < vocabulary; ++token) {
    Ids longer = prompt;
    longer.push_back(token);
    for (const double rest : probabilities(decoder, sampling, longer, length - 1))
      all.push_back(first.of(token) * rest);
  }
  return all;
}

class SampledTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Presets, SampledTest, testing::Values("tiny", "e4b-mini"),
                         [](const auto& preset) { return preset.param.substr(0, preset.param.find('-')); });

// Texts of four tokens, so that the last forward may accept or reject up to two drafts: how often each of the 256
// comes.
TEST_P(SampledTest, TextsHaveTheirDistributionWithAndWithoutDrafter) {
  LoadedPair loaded(test::with_small_vocabulary(GetParam()), 3);
  constexpr int length = 4, draws = 10000;
  const bool is_tiny = GetParam() == "tiny";
  for (const Sampling& sampling :
       {Sampling{.temperature = 1.5, .seed = 1}, Sampling{.temperature = 1.5, .top_k = 3, .seed = 2},
        Sampling{.temperature = 1.5, .top_p = 0.8, .seed = 3}}) {
    const bool is_cut = sampling.top_k > 0 || sampling.top_p < 1;
    if (is_cut && !is_tiny) continue;
    const Decoder decoder = loaded.decoder({.batch = 32, .drafts = 3, .max_new_tokens = length, .sampling = sampling});
    const std::vector<double> expected = probabilities(decoder, sampling, test::random_tokens(2, 1), length);
    for (const bool with_drafter : {false, true}) {
      if (!with_drafter && !is_tiny) continue;
      std::vector<std::int64_t> counts(expected.size());
      std::int64_t begun = 0, accepted = 0, drafted = 0;
      decoder.run(
          [&]() -> std::optional<Request> {
            if (begun == draws) return std::nullopt;
            return Request{.number = begun++, .prompt = test::random_tokens(2, 1)};
          },
          [&](const Request&, const Completion& completion) {
            std::int64_t cell = 0;
            for (const std::int64_t token : completion.output_ids) cell = cell * vocabulary + token;
            ++counts[cell];
            accepted += completion.accepted();
            drafted += completion.drafted;
          },
          with_drafter);
      const test::Fit fit = test::fit(counts, expected);
      EXPECT_LT(fit.chi_square, fit.limit) << "top_k " << sampling.top_k << ", top_p " << sampling.top_p;
      if (!with_drafter) continue;
      EXPECT_GT(accepted, draws / 10);
      EXPECT_GT(drafted - accepted, draws / 10);
    }
  }
}

TEST_P(SampledTest, ATextIsTheSameInAnyBatchAndAnotherWithAnotherSeedOrNumber) {
  LoadedPair loaded(test::with_small_vocabulary(GetParam()), 3, {.number = 2});
  std::vector<Ids> prompts;
  for (const std::int64_t length : {3, 20, 20, 9, 1}) prompts.push_back(test::random_tokens(length, 7));
  const auto outputs = [&](std::int64_t batch, std::uint64_t seed, bool with_drafter) {
    const Decoder decoder =
        loaded.decoder({.batch = batch, .drafts = 3, .sampling = {.temperature = 1.5, .top_p = 0.95, .seed = seed}});
    std::vector<Ids> all;
    for (const Completion& completion : completions_of(decoder, prompts, with_drafter))
      all.push_back(completion.output_ids);
    return all;
  };
  for (const bool with_drafter : {false, true}) {
    const std::vector<Ids> single = outputs(1, 5, with_drafter);
    EXPECT_EQ(outputs(3, 5, with_drafter), single);
    EXPECT_NE(outputs(1, 6, with_drafter), single);
    EXPECT_NE(Ids(single[1].begin(), single[1].begin() + 18), Ids(single[2].begin(), single[2].end()));
  }
}

TEST_P(DecoderTest, HiddenStatesAreThoseOfTraining) {
  const Ids text = prompt(70);
  const Tensor want = hidden_in_training(loaded, text);
  const std::vector<float> got = hidden_in_decoding(loaded, text, 11, 3, 2);
  const float* expected = want.f32() + 11 * want.size(1);
  // A final hidden state has elements of order one.
  for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-5) << "element " << i;
}

TEST_P(DecoderTest, TheBaseReadsAnImageTokenAsPad) {
  hf::Preset preset = test::with_small_vocabulary(GetParam());
  preset.base["image_token_id"] = 2;
  LoadedPair seeing(preset, 3);
  Ids text = prompt(20);
  ASSERT_GT(std::ranges::count(text, 2), 0);
  const Tensor got = hidden_in_training(seeing, text);
  std::ranges::replace(text, 2, seeing.pair.base_config.text.pad_token_id);
  const Tensor want = hidden_in_training(seeing, text);
  EXPECT_EQ(std::memcmp(got.f32(), want.f32(), got.elements() * sizeof(float)), 0);
}

/// What a round chooses at every row, as training has it. The tokens that it is given are those of the text.
std::vector<Ids> round_choices(LoadedPair& loaded, const Ids& text, std::int64_t rounds, std::int64_t offset) {
  Settings::Drafter settings;
  settings.position_offset = offset;
  const auto& [base, drafter] = std::tie(loaded.pair.base, loaded.pair.drafter);
  Device& device = loaded.device;
  Tensor ordering;
  if (drafter.serving_head() == Head::masked) ordering = device.from_host(drafter.token_ordering());

  const ops::Sequences sequences({static_cast<std::int64_t>(text.size())});
  Tape g(device, sequences, {.recording = false});
  const model::BaseOutput out = base.forward(g, sequences, text, {});
  const std::vector<Graph::Scope> opened = drafter.open(g);
  const Tensor every_row = device.from_host(Ids(text.size(), 0));
  const model::RoundAlignment alignment = drafter.alignment(settings);
  const auto tokens = [&](std::int64_t k) {
    return g.shift_rows(out.embeddings_TH, out.fill_row_1H, alignment.lead(k));
  };
  std::vector<Ids> all;
  drafter.run_rounds(g, alignment, rounds, out.hidden_TH, out.stores, tokens, [&](std::int64_t, const Value& hidden) {
    const Tensor choices = device.empty(every_row.shape(), DType::i64), head = drafter.embedding().value();
    if (drafter.serving_head() == Head::dense)
      ops::projected_choice(device, hidden.data, head, every_row, choices);
    else
      ops::masked_choice(device, drafter.masked_head(ordering), hidden.data, head, every_row, choices);
    device.to_host(choices, all.emplace_back(text.size()));
  });
  return all;
}

// As long as drafts are right, the tokens that a round is given are those of the text: what training's serving rounds
// choose at a position says how many drafts are accepted there.
TEST_P(DecoderTest, AcceptedDraftsAreThoseThatTrainingCounts) {
  constexpr std::int64_t drafts = 3, length = 12, new_tokens = 60;
  std::int64_t accepted_in_all = 0;
  for (const std::uint64_t seed : {1, 2, 3})
    for (const std::int64_t offset : {0, 1}) {
      LoadedPair other(test::with_small_vocabulary(GetParam()), seed);
      const Options options{.drafts = drafts, .max_new_tokens = new_tokens, .position_offset = offset};
      const Completion completion = other.decoder(options).complete(prompt(length), true);
      Ids text = prompt(length);
      text.insert(text.end(), completion.output_ids.begin(), completion.output_ids.end());
      const std::vector<Ids> choices = round_choices(other, text, drafts, offset);

      std::int64_t forwards = 1, drafted = 0;
      std::vector<std::int64_t> accepted_at(drafts), accepted_by_forward;
      for (std::int64_t t = length - 1; t + 2 < length + new_tokens; ++forwards) {
        const std::int64_t count = std::min<std::int64_t>(drafts, length + new_tokens - t - 3);
        std::int64_t accepted = 0;
        while (accepted < count && choices[accepted][t] == text[t + 2 + accepted]) ++accepted_at[accepted++];
        drafted += count;
        accepted_by_forward.push_back(accepted);
        t += accepted + 1;
      }
      EXPECT_EQ(completion.target_forwards, forwards);
      EXPECT_EQ(completion.drafted, drafted);
      EXPECT_EQ(completion.accepted_at, accepted_at);
      EXPECT_EQ(completion.accepted_by_forward, accepted_by_forward);
      accepted_in_all += completion.accepted();
    }
  EXPECT_GT(accepted_in_all, 20);
}

TEST_P(DecoderTest, AnEndTokenEndsTheTextWithAndWithoutDrafter) {
  const Completion endless = loaded.decoder({.drafts = 4, .max_new_tokens = 40}).complete(prompt(6), false);
  for (const std::int64_t end : endless.output_ids) {
    const Decoder decoder = loaded.decoder({.drafts = 4, .max_new_tokens = 40, .end_tokens = {end, 1000}});
    const Ids plain = decoder.complete(prompt(6), false).output_ids;
    const Completion drafted = decoder.complete(prompt(6), true);
    EXPECT_EQ(drafted.output_ids, plain);
    const auto first = std::find(endless.output_ids.begin(), endless.output_ids.end(), end);
    EXPECT_EQ(plain, Ids(endless.output_ids.begin(), first + 1));
    EXPECT_EQ(drafted.target_forwards + drafted.accepted(), static_cast<std::int64_t>(plain.size()));
  }
}

TEST_P(DecoderTest, OneNewTokenTakesThePrefillOnly) {
  const Completion completion = loaded.decoder({.drafts = 4, .max_new_tokens = 1}).complete(prompt(6), true);
  EXPECT_EQ(completion.output_ids.size(), 1);
  EXPECT_EQ(completion.target_forwards, 1);
  EXPECT_EQ(completion.drafted, 0);
}

TEST_P(DecoderTest, LogitsThatAreNoNumbersAreAnError) {
  const auto& tensors = loaded.pair.base.tensors();
  const std::string name = "model.language_model.norm.weight";
  const Parameter norm = std::ranges::find(tensors, name, &model::TensorRecord::name)->parameter;
  norm.group().acquire();
  std::fill_n(norm.value().f32(), norm.value().elements(), std::nanf(""));
  norm.group().release();
  const Decoder decoder = loaded.decoder({.max_new_tokens = 4});
  const char* const message = "the base's logits are not numbers; check its weights";
  EXPECT_EQ(mtp::test::error_of([&] { decoder.complete(prompt(3), true); }), message);
  const Decoder sampling = loaded.decoder({.max_new_tokens = 4, .sampling = {.temperature = 1}});
  EXPECT_EQ(mtp::test::error_of([&] { sampling.complete(prompt(3), true); }), message);
}

}  // namespace
}  // namespace mtp::decode
