// mtp-bench-checkpoint: saving and restoring beside plain writing and reading of as many bytes on the same disk.

#include <filesystem>

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
  fs::path dir = "bench-checkpoint";
  std::int64_t mebibytes = 256;  // of the state, over all ranks
};

constexpr std::int64_t piece = std::int64_t{1} << 20;  // what plain reading and writing moves at a time, as dd's bs=1M

/// A state as that of a run: units of some matrices, with moments.
class Run {
 public:
  Run(Device& device, const dist::Communicator& communicator, const Options& options, bool background)
      : device_(device), communicator_(communicator), dir_(options.dir), sharding_{device, communicator} {
    constexpr std::int64_t width = 1024, matrices = 6, kinds = 3;
    const std::int64_t elements = (options.mebibytes << 20) / std::int64_t{sizeof(float)} / kinds;
    const std::int64_t units = std::max<std::int64_t>(1, elements / (width * width * matrices));
    for (std::int64_t u = 0; u < units; ++u) {
      std::vector<dist::UnitLayout::Member> members;
      for (std::int64_t m = 0; m < matrices; ++m)
        members.push_back({fmt::format("base.layers.{}.{}.weight", u, m), {width, width}});
      units_.push_back(std::make_unique<dist::ShardedUnit>(dist::UnitLayout("unit", true, members), sharding_));
    }
    Settings settings;
    settings.run.dir = dir_;
    settings.checkpoint.background = background;
    settings.checkpoint.keep = 1;
    if (communicator.is_first()) {
      fs::remove_all(dir_ / "checkpoints");
      fs::create_directories(dir_ / "source");
    }
    communicator.barrier("the folder of the benchmark");
    saver_.emplace(checkpoint::Run{settings, {}, "cpu", communicator.size()}, checkpoint::Manifest(), units_, device,
                   communicator);
  }

  void save() { saver_->save(++step_, 0, 0, 0, false); }
  void wait() { saver_->finish(); }
  void restore() {
    const auto state = checkpoint::open(checkpoint::complete_checkpoints(dir_).back().directory, communicator_);
    checkpoint::restore(state, units_, device_, communicator_);
  }
  /// Of this rank.
  std::int64_t bytes() const { return checkpoint::Snapshot(units_).bytes(); }
  const dist::Units& units() const { return units_; }

 private:
  Device& device_;
  const dist::Communicator& communicator_;
  fs::path dir_;
  dist::Sharding sharding_;
  dist::Units units_;
  std::optional<checkpoint::Saver> saver_;
  std::int64_t step_ = 0;
};

fs::path plain_file(const Options& options, int rank) { return options.dir / fmt::format("plain_{:04}", rank); }

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
  const dist::Communicator& communicator = suite.communicator();
  const auto start = [&communicator, &options](Device& device, bool background) {
    return std::make_shared<Run>(device, communicator, options, background);
  };
  suite.add("save", "a whole save, beside a plain file with fsync", [=, &communicator, &options](Device& device) {
    const auto run = start(device, false);
    const fs::path path = plain_file(options, communicator.rank());
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
                .plain = [copy, &device] { copy->take(device); }};
  });
  suite.add("restore", "verified, beside plain reading", [=, &communicator, &options](Device& device) {
    const auto run = start(device, false);
    run->save();
    const fs::path path = plain_file(options, communicator.rank());
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
                            "folder on the disk to measure");
  description.add_options()("mebibytes", po::value(&options.mebibytes)->default_value(options.mebibytes),
                            "size of the state, over all ranks");
  return run(argc, argv,
             {.name = "mtp-bench-checkpoint",
              .summary = "times saving and restoring beside plain writing and reading",
              .options = description,
              .add_all = [&](Suite& suite) { add_all(suite, options); }});
}
