// mtp-bench-checkpoint: saving and restoring beside plain writing and reading of as many bytes on the same disk.

#include <boost/program_options.hpp>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "mtp/checkpoint/checkpoint.h"
#include "mtp/checkpoint/directory.h"
#include "mtp/checkpoint/saver.h"
#include "mtp/core/file.h"
#include "support/main.h"

namespace {

using namespace mtp;
using namespace mtp::bench;
namespace fs = std::filesystem;

struct Options {
  fs::path dir = ".";
  std::int64_t mebibytes = 256;  // of the state, over all ranks
};

constexpr std::int64_t piece = std::int64_t{1} << 20;  // what plain reading and writing moves at a time, as dd's bs=1M

// The state is made of units like this one: square matrices, each with its two moments.
constexpr std::int64_t width = 1024, matrices = 6, kinds = 3;
constexpr std::int64_t unit_mebibytes = (width * width * matrices * kinds * std::int64_t{sizeof(float)}) >> 20;

/// A folder of the program's own in `parent`, whose other files it leaves alone. It goes with this object. Collective.
class Folder {
 public:
  Folder(const parallel::Communicator& communicator, const fs::path& parent)
      : path_(parent / "mtp-bench-checkpoint"), is_first_(communicator.is_first()) {
    parallel::agree(communicator, "the folder of the benchmark", [&] {
      if (!is_first_) return;
      fs::remove_all(path_);  // of a run that was killed
      fs::create_directories(path_ / "source");
    });
  }
  ~Folder() {
    std::error_code ignored;  // what is left is removed by the next run
    if (is_first_) fs::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  bool is_first_;
};

/// A state as that of a run.
class Run {
 public:
  Run(Device& device, const parallel::Communicator& communicator, const Options& options, bool background)
      : device_(device),
        communicator_(communicator),
        folder_(communicator, options.dir),
        sharding_{device, communicator} {
    for (std::int64_t u = 0; u < options.mebibytes / unit_mebibytes; ++u) {
      std::vector<parallel::UnitLayout::Member> members;
      for (std::int64_t m = 0; m < matrices; ++m)
        members.push_back({fmt::format("base.layers.{}.{}.weight", u, m), {width, width}});
      units_.push_back(std::make_unique<parallel::ShardedUnit>(parallel::UnitLayout("unit", true, members), sharding_));
    }
    Settings settings;
    settings.run.dir = folder_.path();
    settings.checkpoint.background = background;
    settings.checkpoint.keep = 1;
    saver_.emplace(checkpoint::RunDescription{settings, {}, device.name(), communicator.size()}, checkpoint::Manifest(),
                   units_, device, communicator);
  }

  void save() { saver_->save({.step = ++step_}); }
  void wait() { saver_->finish(); }
  void restore() {
    const auto state =
        checkpoint::open(checkpoint::complete_checkpoints(folder_.path()).back().directory, communicator_);
    checkpoint::restore(state, units_, {}, device_, communicator_);
  }
  /// Of this rank.
  std::int64_t bytes() const { return checkpoint::Snapshot(units_).bytes(); }
  const parallel::Units& units() const { return units_; }
  fs::path plain_file() const { return folder_.path() / fmt::format("plain_{:04}", communicator_.rank()); }

 private:
  Device& device_;
  const parallel::Communicator& communicator_;
  Folder folder_;
  parallel::Sharding sharding_;
  parallel::Units units_;
  std::optional<checkpoint::Saver> saver_;
  std::int64_t step_ = 0;
};

void write_plainly(const fs::path& path, std::int64_t bytes) {
  const std::vector<std::byte> block(piece, std::byte{1});
  RandomAccessFile file = RandomAccessFile::create(path);
  for (std::int64_t position = 0; position < bytes; position += piece) file.write(position, block);
  file.sync();
}

void read_plainly(const fs::path& path, std::int64_t bytes) {
  std::vector<std::byte> block(piece);
  const RandomAccessFile file(path, RandomAccessFile::Access::read);
  for (std::int64_t position = 0; position < bytes; position += piece) file.read(position, block);
}

void add_all(Suite& suite, const Options& options) {
  const parallel::Communicator& communicator = suite.communicator();
  if (options.mebibytes < unit_mebibytes)
    throw AgreedError(
        fmt::format("option --mebibytes: {} is below {}, a unit with its moments", options.mebibytes, unit_mebibytes),
        2);
  const auto start = [&communicator, &options](Device& device, bool background) {
    return std::make_shared<Run>(device, communicator, options, background);
  };
  suite.add("save", "a whole save, beside a plain file with fsync", [=](Device& device) {
    const auto run = start(device, false);
    const fs::path path = run->plain_file();
    return Work{.run = [run] { run->save(); },
                .check = [run] { run->wait(); },
                .bytes = static_cast<double>(run->bytes()),
                .plain = [path, bytes = run->bytes()] { write_plainly(path, bytes); }};
  });
  suite.add("save/stopped", "what a save in the background stops the run, beside a copy", [=](Device& device) {
    const auto run = start(device, true);
    const auto copy = std::make_shared<checkpoint::Snapshot>(run->units());
    return Work{.run = [run] { run->save(); },
                .check = [run] { run->wait(); },
                .prepare = [run] { run->wait(); },
                .bytes = static_cast<double>(run->bytes()),
                .plain = [copy, &device] { copy->take(device); },
                .count = [run](benchmark::UserCounters&, double) { run->wait(); }};  // for the last save
  });
  suite.add("restore", "verified, beside plain reading", [=](Device& device) {
    const auto run = start(device, false);
    run->save();
    const fs::path path = run->plain_file();
    write_plainly(path, run->bytes());
    return Work{.run = [run] { run->restore(); },
                .check = [] {},
                .bytes = static_cast<double>(run->bytes()),
                .plain = [path, bytes = run->bytes()] { read_plainly(path, bytes); }};
  });
}

}  // namespace

int main(int argc, char** argv) {
  namespace po = boost::program_options;
  Options options;
  po::options_description description;
  description.add_options()("dir", po::value(&options.dir)->default_value(options.dir),
                            "folder on the disk to measure; the program works in mtp-bench-checkpoint inside it");
  description.add_options()("mebibytes", po::value(&options.mebibytes)->default_value(options.mebibytes),
                            "size of the state, over all ranks, in whole units of 72");
  return run(argc, argv,
             {.name = "mtp-bench-checkpoint",
              .summary = "times saving and restoring beside plain writing and reading",
              .options = description,
              .add_all = [&](Suite& suite) { add_all(suite, options); }});
}
