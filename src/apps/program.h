#pragma once

#include <boost/program_options.hpp>
#include <functional>
#include <iostream>

namespace mtp::apps {

/// The body of a `main` of one process: what `work` returns is the exit code; an error is printed as one line and ends
/// with its own.
int run_program(const std::function<int()>& work);

/// Parses a command line strictly (no abbreviations, no unknown words). Prints the options to `out` and returns false
/// for `--help`. Throws UsageError that names the option.
bool parse(int argc, char** argv, boost::program_options::options_description options,
           const boost::program_options::positional_options_description& positional = {},
           std::ostream& out = std::cout);

}  // namespace mtp::apps
