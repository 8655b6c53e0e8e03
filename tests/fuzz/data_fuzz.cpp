// What a data file holds, from bytes: a valid HDF5 file whose attributes, shapes and contents are the fuzzer's, read
// whole. Not the bytes of the file itself: HDF5 1.10 leaks and asks for absurd amounts of memory on a damaged one,
// which is not ours to find.

#include <fuzzer/FuzzedDataProvider.h>

#include "fuzz/fuzz.h"
#include "mtp/core/hdf5.h"
#include "mtp/data/data_file.h"

namespace {

using namespace mtp;

/// A dataset, mostly of so many small elements in one dimension.
template <typename T>
void write_dataset(hdf5::File& file, const char* name, std::size_t elements, FuzzedDataProvider& bytes) {
  if (bytes.ConsumeIntegralInRange(0, 31) == 0) return;  // missing
  if (bytes.ConsumeIntegralInRange(0, 15) == 0) elements = bytes.ConsumeIntegralInRange<std::size_t>(0, 32);
  std::vector<T> values(elements);
  for (T& value : values) value = bytes.ConsumeIntegralInRange<T>(0, 1);
  if (!values.empty() && bytes.ConsumeIntegralInRange(0, 3) == 0)
    values[bytes.ConsumeIntegralInRange<std::size_t>(0, values.size() - 1)] = bytes.ConsumeIntegral<T>();
  std::vector<std::int64_t> shape{std::ssize(values)};
  if (bytes.ConsumeIntegralInRange(0, 31) == 0) shape.push_back(1);
  file.create_dataset<T>(name, shape).write(0, std::span<const T>(values));
}

/// Returns where they end.
std::size_t write_sorted_offsets(hdf5::File& file, FuzzedDataProvider& bytes) {
  std::vector<std::int64_t> offsets{0};
  for (int i = bytes.ConsumeIntegralInRange(1, 5); i > 0; --i)
    offsets.push_back(offsets.back() + bytes.ConsumeIntegralInRange<std::int64_t>(1, 6));
  file.create_dataset<std::int64_t>("offsets", {std::ssize(offsets)}).write(0, std::span<const std::int64_t>(offsets));
  return static_cast<std::size_t>(offsets.back());
}

void write_data(const std::filesystem::path& path, FuzzedDataProvider& bytes) {
  hdf5::File file = hdf5::File::create(path);
  file.set_attribute("format", bytes.ConsumeIntegralInRange(0, 31) ? "mtp-data" : bytes.ConsumeRandomLengthString(8));
  file.set_attribute("version", bytes.ConsumeIntegralInRange(0, 31) ? 1 : bytes.ConsumeIntegral<std::int64_t>());
  for (const char* name : {"vocab_size", "pad_token_id"}) {
    const bool is_small = bytes.ConsumeBool();
    file.set_attribute(
        name, is_small ? bytes.ConsumeIntegralInRange<std::int64_t>(0, 9) : bytes.ConsumeIntegral<std::int64_t>());
  }
  std::size_t tokens = 12;
  if (bytes.ConsumeBool())
    tokens = write_sorted_offsets(file, bytes);
  else
    write_dataset<std::int64_t>(file, "offsets", 2, bytes);
  if (bytes.ConsumeIntegralInRange(0, 15) == 0)
    write_dataset<std::int64_t>(file, "tokens", tokens, bytes);
  else
    write_dataset<std::int32_t>(file, "tokens", tokens, bytes);
  write_dataset<std::uint8_t>(file, "loss_mask", tokens, bytes);
  file.close();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider bytes(data, size);
  // HDF5 creates files only where they have a real path, which fuzz::MemoryFile has not.
  const std::filesystem::path path = "/dev/shm/mtp-fuzz-" + std::to_string(getpid()) + ".h5";
  write_data(path, bytes);
  fuzz::may_refuse([&] { data::DataFile(path).check_all(); });
  std::filesystem::remove(path);
  return 0;
}
