#include "parallel_program.h"

#include <cstdio>
#include <exception>

namespace mtp::apps {

int run_parallel(const dist::Communicator& communicator, const std::function<int()>& work) {
  int exit_code = 1;
  try {
    return work();
  } catch (const AgreedError& error) {
    if (communicator.is_first()) std::fprintf(stderr, "error: %s\n", error.what());
    return error.exit_code();
  } catch (const Error& error) {
    std::fprintf(stderr, "error: rank %d: %s\n", communicator.rank(), error.what());
    exit_code = error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: rank %d: unexpected: %s\n", communicator.rank(), error.what());
  }
  if (communicator.size() > 1) communicator.abort(exit_code);
  return exit_code;
}

}  // namespace mtp::apps
