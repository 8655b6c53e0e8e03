#pragma once

#include <boost/program_options.hpp>
#include <functional>
#include <string>

#include "support/suite.h"

namespace mtp::bench {

/// A benchmark program: Google Benchmark's own flags, the common options, and these.
struct Program {
  std::string name;
  std::string summary;  // one line
  boost::program_options::options_description options;
  std::function<void(Suite& suite)> add_all;  // called when the options have been read
  bool exchanges_tensors = false;             // between ranks
};

/// The body of a `main`: runs on the ranks of a job, of which rank 0 prints and writes. Exit codes: 0 done; 1 failed,
/// or a benchmark's result was wrong; 2 wrong usage.
int run(int argc, char** argv, const Program& program);

}  // namespace mtp::bench
