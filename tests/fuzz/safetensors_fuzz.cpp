// Bytes as a safetensors file: its header is checked, and every tensor of a type that is ever read is read.

#include "fuzz/fuzz.h"
#include "mtp/hf/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const mtp::fuzz::MemoryFile file({data, size});
  mtp::fuzz::may_refuse([&] {
    const auto files = mtp::hf::TensorFiles::open_file(file.path());
    for (const std::string& name : files.names()) {
      std::vector<float> values(static_cast<std::size_t>(mtp::num_elements(files.info(name).shape)));
      mtp::fuzz::may_refuse([&] { files.read(name, 0, values); });
      mtp::fuzz::may_refuse([&] { files.read_int64(name); });
    }
  });
  return 0;
}
