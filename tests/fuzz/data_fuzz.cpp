// Bytes as a data file, read whole.

#include "fuzz/fuzz.h"
#include "mtp/data/data_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const mtp::fuzz::MemoryFile file({data, size});
  mtp::fuzz::may_refuse([&] { mtp::data::DataFile(file.path()).check_all(); });
  return 0;
}
