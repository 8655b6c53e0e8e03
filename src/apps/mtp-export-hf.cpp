// mtp-export-hf --from CKPT_OR_RUN --out DIR: writes the trained pair for Hugging Face's from_pretrained.

#include <boost/program_options.hpp>
#include <filesystem>
#include <iostream>

#include "mtp/checkpoint/export.h"
#include "mtp/checkpoint/run_directory.h"
#include "program.h"

namespace {

namespace po = boost::program_options;

int export_pair(int argc, char** argv) {
  std::filesystem::path from, out;
  po::options_description options(
      "mtp-export-hf: writes DIR/base/model/consolidated and DIR/drafter/model/consolidated");
  options.add_options()("from", po::value(&from)->required(),
                        "a run directory (its newest checkpoint) or a checkpoint");
  options.add_options()("out", po::value(&out)->required(), "the directory to write; must not exist");
  if (!mtp::apps::parse(argc, argv, options)) return 0;
  mtp::checkpoint::export_hf(mtp::checkpoint::resolve_checkpoint(from), out);
  std::cout << out.string() << "\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return mtp::apps::run_program([&] { return export_pair(argc, argv); });
}
