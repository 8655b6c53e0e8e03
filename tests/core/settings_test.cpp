#include "mtp/core/settings.h"

#include <gmock/gmock.h>

#include <fstream>
#include <sstream>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp {
namespace {

class SettingsTest : public testing::Test {
 protected:
  static CommandLine parse_line(std::vector<const char*> words) {
    words.insert(words.begin(), "mtp-train");
    return parse_settings(static_cast<int>(words.size()), words.data());
  }
  /// Parses the words after those of a complete run.
  static Settings parse(const std::vector<const char*>& words) {
    std::vector<const char*> all{"--model.base", "b",    "--model.drafter",   "d",
                                 "--data.train", "t.h5", "--train.max_steps", "100"};
    all.insert(all.end(), words.begin(), words.end());
    return parse_line(all).settings;
  }
  /// A file of configs/.
  static Settings parse_published(const std::string& file) {
    const std::string path = MTP_SOURCE_DIR "/configs/" + file;
    return parse_line({"--config", path.c_str()}).settings;
  }
  static std::string refusal(const std::vector<const char*>& words) {
    return test::error_of<UsageError>([&] { parse(words); });
  }
  std::string config(const std::string& text, const std::string& name = "run.cfg") {
    const auto path = dir.path() / name;
    std::ofstream(path) << text;
    return path.string();
  }
  std::string config_refusal(const std::string& text) {
    const std::string path = config(text);
    return test::error_of<UsageError>([&] { parse_line({"--config", path.c_str()}); });
  }

  test::TempDir dir;
};

TEST_F(SettingsTest, DefaultsAreThoseOfTheContract) {
  const Settings s = parse({});
  EXPECT_EQ(s.data.max_length, 0);
  EXPECT_TRUE(s.data.shuffle);
  EXPECT_EQ(s.data.seed, 42u);
  EXPECT_EQ(s.train.global_batch, 8);
  EXPECT_EQ(s.train.micro_batch, 1);
  EXPECT_FALSE(s.train.recompute);
  EXPECT_EQ(s.checkpoint.every_steps, 0);
  EXPECT_EQ(s.checkpoint.keep, 2);
  EXPECT_TRUE(s.checkpoint.background);
  EXPECT_EQ(s.validation.every_steps, 0);
  EXPECT_EQ(s.dist.timeout_minutes, 10);
  EXPECT_EQ(s.dist.reduction, Reduction::ordered);
  EXPECT_EQ(s.dist.transport, TransportChoice::automatic);
  EXPECT_EQ(s.run.dir, "runs/default");
  EXPECT_EQ(s.run.log_every_steps, 1);
  EXPECT_FALSE(s.run.profile);
  EXPECT_EQ(s.drafter.rounds, 4);
  EXPECT_EQ(s.drafter.loss_weight, 0.01);
  EXPECT_EQ(s.drafter.round_weights, 1);
  EXPECT_FALSE(s.drafter.detach);
  EXPECT_EQ(s.drafter.alignment, Alignment::serving);
  EXPECT_EQ(s.drafter.position_offset, 1);
  EXPECT_EQ(s.drafter.head, Head::dense);
  EXPECT_EQ(s.drafter.target, Target::data);
  EXPECT_EQ(s.optimizer.lr, 1e-5);
  EXPECT_EQ(s.optimizer.beta1, 0.9);
  EXPECT_EQ(s.optimizer.beta2, 0.95);
  EXPECT_EQ(s.optimizer.eps, 1e-8);
  EXPECT_EQ(s.optimizer.weight_decay, 0.01);
  EXPECT_EQ(s.optimizer.max_grad_norm, 1.0);
  EXPECT_EQ(s.schedule.style, ScheduleStyle::cosine);
  EXPECT_FALSE(s.schedule.warmup_steps || s.schedule.decay_steps || s.schedule.init_lr || s.schedule.min_lr);
  EXPECT_EQ(s.lora.rank, 0);
  EXPECT_FALSE(s.freeze.base || s.freeze.embeddings);
  EXPECT_TRUE(s.freeze.vision && s.freeze.audio);
}

TEST_F(SettingsTest, TheCommandLineWinsOverTheFile) {
  const std::string path = config(
      "# a comment\n[model]\nbase = /models/b\ndrafter = d\n[data]\ntrain = t.h5\nshuffle = false\n"
      "[train]\nmax_epochs = 3\n[optimizer]\nlr = 2e-4\nbeta1 = 0.8\n",
      "trial.one.cfg");
  const Settings s = parse_line({"--config", path.c_str(), "--optimizer.lr=1e-3", "--drafter.rounds", "2"}).settings;
  EXPECT_EQ(s.model.base, "/models/b");
  EXPECT_FALSE(s.data.shuffle);
  EXPECT_EQ(s.train.max_epochs, 3);
  EXPECT_EQ(s.optimizer.lr, 1e-3);
  EXPECT_EQ(s.optimizer.beta1, 0.8);
  EXPECT_EQ(s.drafter.rounds, 2);
  EXPECT_EQ(s.run.dir, "runs/trial.one");
}

TEST_F(SettingsTest, WrittenSettingsAreReadBackToTheSameValues) {
  const Settings s = parse({"--optimizer.lr", "0.1234567890123456789", "--schedule.min_lr", "1e-300", "--data.seed",
                            "18446744073709551615", "--schedule.style", "linear", "--drafter.alignment", "pr2240",
                            "--data.shuffle", "false", "--run.dir", "a dir/with blanks", "--schedule.decay_steps", "50",
                            "--lora.targets", "q_proj,v_proj"});
  std::ostringstream first, second;
  write_settings(first, s);
  const std::string path = config(first.str());
  const Settings again = parse_line({"--config", path.c_str()}).settings;
  write_settings(second, again);
  EXPECT_EQ(first.str(), second.str());
  EXPECT_EQ(again.optimizer.lr, 0.1234567890123456789);
  EXPECT_EQ(again.schedule.min_lr, 1e-300);
  EXPECT_EQ(again.data.seed, 18446744073709551615u);
  EXPECT_EQ(again.schedule.style, ScheduleStyle::linear);
  EXPECT_EQ(again.drafter.alignment, Alignment::pr2240);
  EXPECT_FALSE(again.data.shuffle);
  EXPECT_EQ(again.run.dir, "a dir/with blanks");
  EXPECT_EQ(again.lora.targets, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(again.schedule.decay_steps, 50);
  EXPECT_EQ(again.schedule.warmup_steps, std::nullopt);
}

TEST_F(SettingsTest, WrongValuesAreRefusedInOneLineThatNamesTheSetting) {
  const std::string out_of_range = " is out of range, it must be ";
  const struct {
    const char* name;
    const char* value;
    std::string message;
  } cases[] = {
      {"--drafter.rounds", "0", "drafter.rounds: 0" + out_of_range + "at least 1"},
      {"--drafter.rounds", "4x", "drafter.rounds: '4x' is not an integer"},
      {"--drafter.rounds", "4.0", "drafter.rounds: '4.0' is not an integer"},
      {"--drafter.rounds", " 4", "drafter.rounds: ' 4' is not an integer"},
      {"--drafter.rounds", "99999999999999999999",
       "drafter.rounds: 99999999999999999999" + out_of_range + "at least 1"},
      {"--drafter.position_offset", "2", "drafter.position_offset: 2" + out_of_range + "0 or 1"},
      {"--drafter.loss_weight", "-0.1", "drafter.loss_weight: -0.1" + out_of_range + "at least 0"},
      {"--drafter.round_weights", "0", "drafter.round_weights: 0" + out_of_range + "above 0"},
      {"--lora.dropout", "0.1", "lora.dropout: 0.1" + out_of_range + "0"},
      {"--lora.targets", "q_proj, v_proj",
       "lora.targets: 'q_proj, v_proj' is not a list of names with commas between them"},
      {"--lora.on", "drafter", "lora.on: 'drafter' is not base or both"},
      {"--data.max_length", "1", "data.max_length: 1" + out_of_range + "0 or at least 2"},
      {"--data.seed", "-1", "data.seed: '-1' is not an integer without a sign"},
      {"--data.shuffle", "yes", "data.shuffle: 'yes' is not true or false"},
      {"--data.shuffle", "1", "data.shuffle: '1' is not true or false"},
      {"--optimizer.lr", "nan", "optimizer.lr: 'nan' is not a number"},
      {"--optimizer.lr", "inf", "optimizer.lr: 'inf' is not a number"},
      {"--optimizer.lr", "1e-5f", "optimizer.lr: '1e-5f' is not a number"},
      {"--optimizer.lr", "1e999", "optimizer.lr: 1e999" + out_of_range + "at least 0"},
      {"--optimizer.lr", "-1e-5", "optimizer.lr: -1e-5" + out_of_range + "at least 0"},
      {"--optimizer.beta1", "1", "optimizer.beta1: 1" + out_of_range + "at least 0 and below 1"},
      {"--optimizer.eps", "0", "optimizer.eps: 0" + out_of_range + "above 0"},
      {"--run.threads", "-1", "run.threads: -1" + out_of_range + "at least 0"},
      {"--checkpoint.keep", "0", "checkpoint.keep: 0" + out_of_range + "at least 1"},
      {"--schedule.style", "cos", "schedule.style: 'cos' is not constant, linear or cosine"},
      {"--dist.timeout_minutes", "0", "dist.timeout_minutes: 0" + out_of_range + "above 0"},
      {"--run.dir", "a#b", "run.dir: a path cannot have a #, a line break or a blank at its ends: 'a#b'"},
  };
  for (const auto& c : cases) EXPECT_EQ(refusal({c.name, c.value}), "setting " + c.message);
}

TEST_F(SettingsTest, PathsMayHaveVariablesAsInAShell) {
  setenv("HOME", "/home/x", 1);
  setenv("SCRATCH", "/scratch/y", 1);
  unsetenv("NOWHERE");
  const auto run_dir = [](const char* path) {
    return parse_line({"--model.base", "b", "--model.drafter", "d", "--data.train", "t", "--train.max_steps", "100",
                       "--run.dir", path})
        .settings.run.dir.string();
  };
  EXPECT_EQ(run_dir("~/run"), "/home/x/run");
  EXPECT_EQ(run_dir("$SCRATCH/${SCRATCH}_2/a b"), "/scratch/y//scratch/y_2/a b");
  EXPECT_EQ(run_dir("runs/lr=1e-3~"), "runs/lr=1e-3~");
  EXPECT_EQ(refusal({"--run.dir", "$NOWHERE/run"}),
            "setting run.dir: the variable NOWHERE is not set; set it, or write the path out");
}

TEST_F(SettingsTest, ASettingIsPrintedAsItIsResolved) {
  const CommandLine line = parse_line({"--model.base", "b", "--model.drafter", "d", "--data.train", "t",
                                       "--train.max_steps", "100", "--print", "run.dir", "--print", "optimizer.lr"});
  EXPECT_EQ(line.action, CommandLine::Action::print);
  EXPECT_EQ(line.printed, (std::vector<std::string>{"runs/default", "1e-05"}));
  EXPECT_EQ(refusal({"--print", "run.nothing"}), "option --print: unknown setting run.nothing, see --help");
}

TEST_F(SettingsTest, APlanNeedsModelsAndALengthOrData) {
  const CommandLine line = parse_line({"--plan", "--ranks", "64", "--length", "2048", "--model.base", "b",
                                       "--model.drafter", "d", "--run.device", "cuda"});
  EXPECT_EQ(line.action, CommandLine::Action::plan);
  EXPECT_EQ(line.plan.ranks, 64);
  EXPECT_EQ(line.plan.ranks_per_node, 8);
  EXPECT_EQ(line.plan.length, 2048);
  const auto refusal_of = [](std::vector<const char*> words) {
    words.insert(words.end(), {"--model.base", "b", "--model.drafter", "d"});
    return test::error_of<UsageError>([&] { parse_line(words); });
  };
  EXPECT_EQ(refusal_of({"--plan"}), "option --plan: needs data.train, or --length in its place");
  EXPECT_EQ(refusal_of({"--plan", "--ranks", "0"}), "option --ranks: 0 is no number from 1 to 1000000");
  EXPECT_EQ(refusal_of({"--ranks", "2"}), "option --ranks: is for --plan");
}

TEST_F(SettingsTest, RequiredSettingsAreNamed) {
  const auto refusal_of = [](std::vector<const char*> words) {
    return test::error_of<UsageError>([&] { parse_line(words); });
  };
  EXPECT_EQ(refusal_of({}), "setting model.base is required");
  EXPECT_EQ(refusal_of({"--model.base", "b"}), "setting model.drafter is required");
  EXPECT_EQ(refusal_of({"--model.base", "b", "--model.drafter", "d"}), "setting data.train is required");
  EXPECT_EQ(refusal_of({"--model.base", "b", "--model.drafter", "d", "--data.train", "t"}),
            "setting train.max_steps or train.max_epochs must be above 0, else the run never ends");
}

TEST_F(SettingsTest, ContradictionsAreRefused) {
  EXPECT_EQ(refusal({"--lora.rank", "4", "--freeze.base", "true"}),
            "setting lora.rank: adapters train the base, which freeze.base forbids");
  EXPECT_EQ(refusal({"--lora.rank", "4", "--lora.on", "both", "--drafter.share_embedding_with_base", "true"}),
            "setting drafter.share_embedding_with_base: with lora.on = both the drafter's token table stays as it is");
  EXPECT_EQ(refusal({"--validation.every_steps", "1"}),
            "setting data.validation is required, as validation.every_steps is above 0");
  EXPECT_EQ(refusal({"--train.micro_batch", "3"}),
            "setting train.global_batch: 8 is not a multiple of train.micro_batch, 3");
  EXPECT_EQ(refusal({"--schedule.warmup_steps", "50", "--schedule.decay_steps", "50"}),
            "setting schedule.warmup_steps: the warm-up, 50 steps, must end before the decay, 50 steps");
  EXPECT_EQ(refusal({"--schedule.warmup_steps", "100"}),
            "setting schedule.warmup_steps: the warm-up, 100 steps, must end before the decay, 100 steps");
}

TEST_F(SettingsTest, SettingsWithoutEffectAreNoContradiction) {
  EXPECT_EQ(refusal({"--schedule.style", "constant", "--schedule.warmup_steps", "50", "--schedule.decay_steps", "50"}),
            "no error");
  EXPECT_EQ(refusal({"--drafter.alignment", "pr2240", "--drafter.position_offset", "0"}), "no error");
  EXPECT_EQ(refusal({"--validation.max_samples", "5"}), "no error");
  EXPECT_EQ(refusal({"--data.validation", "v.h5"}), "no error");
}

TEST_F(SettingsTest, NamesOnTheCommandLineAreExactAndGivenOnce) {
  EXPECT_EQ(refusal({"--drafter.round", "4"}), "command line: unknown setting drafter.round, see --help");
  EXPECT_EQ(refusal({"--device", "cpu"}), "command line: unknown setting device, see --help");
  EXPECT_EQ(refusal({"--drafter.rounds", "4", "--drafter.rounds=4"}),
            "command line: setting drafter.rounds is given twice");
  EXPECT_EQ(refusal({"run.cfg"}),
            "command line: unexpected argument 'run.cfg', settings are given as --section.key value");
  EXPECT_EQ(refusal({"--data.shuffle", "--drafter.rounds=4"}), "command line: setting data.shuffle has no value");
  EXPECT_EQ(refusal({"--data.shuffle"}), "command line: the required argument for option '--data.shuffle' is missing");
}

TEST_F(SettingsTest, FaultsOfTheFileNameTheFile) {
  const std::string where = (dir.path() / "run.cfg").string();
  EXPECT_EQ(config_refusal("[drafter]\nround = 4\n"), where + ": unknown setting drafter.round, see --help");
  EXPECT_EQ(config_refusal("help = 1\n"), where + ": unknown setting help, see --help");
  EXPECT_EQ(config_refusal("[drafter]\nrounds = 4\nrounds = 5\n"), where + ": setting drafter.rounds is given twice");
  EXPECT_EQ(config_refusal("[drafter]\nrounds\n"),
            "setting config: " + where + ": the options configuration file contains an invalid line 'rounds'");
  EXPECT_EQ(config_refusal("[drafter]\nrounds =\n"), "setting drafter.rounds: '' is not an integer");
  EXPECT_EQ(refusal({"--config", "none.cfg"}), "setting config: cannot read the file none.cfg");
  const std::string folder = dir.path().string();
  EXPECT_EQ(refusal({"--config", folder.c_str()}), "setting config: cannot read the file " + folder);
}

TEST_F(SettingsTest, EveryFileInConfigsParses) {
  for (const auto& entry : std::filesystem::directory_iterator(MTP_SOURCE_DIR "/configs"))
    EXPECT_EQ(test::error_of<UsageError>([&] { parse_published(entry.path().filename()); }), "no error")
        << entry.path();
}

TEST_F(SettingsTest, TheE4bRecipeIsThePublishedOne) {
  const Settings s = parse_published("e4b_tulu_magicoder.cfg");
  EXPECT_EQ(s.drafter.loss_weight, 0.01);
  EXPECT_EQ(s.drafter.rounds, 4);
  EXPECT_EQ(s.train.global_batch, 8);
  EXPECT_EQ(s.train.max_steps, 2000);
  EXPECT_EQ(s.data.max_length, 2048);
  EXPECT_EQ(s.optimizer.lr, 1e-5);
  EXPECT_EQ(s.optimizer.max_grad_norm, 0.5);
  EXPECT_EQ(s.checkpoint.every_steps, 250);
}

TEST_F(SettingsTest, TheMedpixRecipeIsThePublishedOne) {
  const Settings s = parse_published("e4b_medpix.cfg");
  EXPECT_EQ(s.drafter.loss_weight, 0.01);
  EXPECT_EQ(s.drafter.rounds, 4);
  EXPECT_EQ(s.train.global_batch, 8);
  EXPECT_EQ(s.train.max_epochs, 2);
  EXPECT_EQ(s.optimizer.lr, 1e-5);
  EXPECT_EQ(s.optimizer.weight_decay, 0.01);
  EXPECT_EQ(s.optimizer.max_grad_norm, 1.0);
  EXPECT_EQ(s.schedule.warmup_steps, 25);
  EXPECT_TRUE(s.freeze.vision && s.freeze.vision_projector);
  EXPECT_FALSE(s.freeze.base || s.freeze.embeddings);
}

TEST_F(SettingsTest, HelpAndVersionNeedNoRun) {
  EXPECT_EQ(parse_line({"--help"}).action, CommandLine::Action::help);
  EXPECT_EQ(parse_line({"--version"}).action, CommandLine::Action::version);
  EXPECT_EQ(parse_line({"--drafter.rounds", "0", "--help"}).action, CommandLine::Action::help);
}

TEST_F(SettingsTest, HelpShowsNameDefaultTypeAndMeaning) {
  std::ostringstream help;
  print_help(help, "mtp-train");
  EXPECT_THAT(help.str(), testing::StartsWith("usage: mtp-train [--config FILE] [--section.key value …]\n"));
  EXPECT_THAT(help.str(), testing::ContainsRegex("drafter.rounds +4 +integer, at least 1 +drafter rounds trained"));
  EXPECT_THAT(help.str(), testing::ContainsRegex("schedule.init_lr +0.1 lr +number, at least 0 +learning rate"));
  EXPECT_THAT(help.str(), testing::ContainsRegex("model.base +required +path, ~ and .NAME too "));
}

}  // namespace
}  // namespace mtp
