#include "program.h"

#include <cstdio>

#include "mtp/core/error.h"
#include "mtp/core/exceptions.h"
#include "mtp/core/log.h"
#include "mtp/core/version.h"

namespace mtp::apps {

namespace po = boost::program_options;

int run_program(const std::function<int()>& work) {
  try {
    start_log(0);
    const int exit_code = work();
    if (!std::cout.flush()) throw Error("standard output: cannot be written; see whether its disk is full");
    return exit_code;
  } catch (const Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", message_of(error).c_str());
    return 1;
  }
}

bool parse(int argc, char** argv, po::options_description options, const po::positional_options_description& positional,
           std::ostream& out) {
  options.add_options()("help", "shows this list");
  options.add_options()("version", "shows the version, the git revision and the libraries");
  try {
    using Style = po::command_line_style::style_t;
    po::variables_map values;
    po::store(po::command_line_parser(argc, argv)
                  .options(options)
                  .positional(positional)
                  .style(Style::unix_style & ~Style::allow_guessing)
                  .run(),
              values);
    if (values.contains("help")) out << options;
    if (values.contains("version")) out << version_text(argv[0]);
    if (values.contains("help") || values.contains("version")) return false;
    po::notify(values);
  } catch (const po::error& error) {
    throw UsageError("{}; --help lists the options", error.what());
  }
  return true;
}

}  // namespace mtp::apps
