#include "parallel_program.h"

#include <cstdio>
#include <exception>

namespace mtp::apps {

namespace {

void print(const dist::Communicator& communicator, const Error& error) {
  std::fprintf(stderr, "error: rank %d: %s\n", communicator.rank(), error.what());
}

}  // namespace

int run_parallel(dist::Communicator& communicator, const std::function<int()>& work) {
  communicator.on_missing_ranks([&](const Error& error) {
    print(communicator, error);
    communicator.abort(error.exit_code());
  });
  int exit_code = 1;
  try {
    return work();
  } catch (const AgreedError& error) {
    if (communicator.is_first()) std::fprintf(stderr, "error: %s\n", error.what());
    return error.exit_code();
  } catch (const Error& error) {
    print(communicator, error);
    exit_code = error.exit_code();
  } catch (const std::exception& error) {
    print(communicator, Error("unexpected: {}", error.what()));
  }
  if (communicator.size() > 1) communicator.abort(exit_code);
  return exit_code;
}

}  // namespace mtp::apps
