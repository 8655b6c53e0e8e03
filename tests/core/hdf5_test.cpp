#include "mtp/core/hdf5.h"

#include <gmock/gmock.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <limits>
#include <numeric>
#include <thread>

#include "mtp/core/file.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace mtp::hdf5 {
namespace {

using test::error_of;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class Hdf5Test : public testing::Test {
 protected:
  test::TempDir dir;
  const std::filesystem::path path = dir.path() / "file.h5";
};

TEST_F(Hdf5Test, WhatIsWrittenInSlicesIsReadInSlices) {
  File file = File::create(path);
  Dataset out = file.create_dataset<float>("a/b/matrix", {4, 3});
  out.write(2, std::span<const float>(std::vector<float>{6, 7, 8, 9, 10, 11}));
  out.write(0, std::span<const float>(std::vector<float>{0, 1, 2, 3, 4, 5}));
  file.close();

  const Dataset in = File::open(path).dataset("a/b/matrix");
  EXPECT_THAT(in.shape(), ElementsAre(4, 3));
  EXPECT_EQ(in.elements(), 12);
  std::vector<float> rows(6);
  in.read(1, std::span(rows));
  EXPECT_THAT(rows, ElementsAre(3, 4, 5, 6, 7, 8));
  EXPECT_THAT(in.read_all<float>(), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11));
}

TEST_F(Hdf5Test, AVirtualDatasetShowsTheElementsOfOtherFilesInTheirOrder) {
  const std::vector<std::int64_t> shape{3, 2, 4};
  // Cut within the innermost rows, within one row, and at the end of a row.
  const std::vector<std::int64_t> cuts{0, 5, 6, 7, 16, 24};
  std::vector<VirtualPart> parts;
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    std::vector<float> values;
    for (std::int64_t k = cuts[i]; k < cuts[i + 1]; ++k) values.push_back(static_cast<float>(k));
    const std::string name = "part" + std::to_string(i) + ".h5";
    File part = File::create(dir.path() / name);
    part.create_dataset<float>("a/values", {static_cast<std::int64_t>(values.size())})
        .write(0, std::span<const float>(values));
    part.close();
    parts.push_back({name, "a/values", cuts[i], cuts[i + 1] - cuts[i]});
  }
  File file = File::create(path);
  file.create_virtual_dataset<float>("b/whole", shape, parts);
  file.close();

  const Dataset whole = File::open(path).dataset("b/whole");
  EXPECT_EQ(whole.shape(), shape);
  std::vector<float> expected(24);
  std::iota(expected.begin(), expected.end(), 0.0f);
  EXPECT_EQ(whole.read_all<float>(), expected);
  EXPECT_THAT(error_of([&] { whole.check_is_stored(); }), HasSubstr("is virtual"));
}

TEST_F(Hdf5Test, AReservedDatasetIsWrittenPastHdf5) {
  File file = File::create(path);
  const std::int64_t position = file.reserve_dataset<float>("values", {3}).position_in_file();
  file.close();
  const std::vector<float> values{1, 2, 3};
  RandomAccessFile(path, RandomAccessFile::Access::write).write(position, std::as_bytes(std::span(values)));
  EXPECT_THAT(File::open(path).dataset("values").read_all<float>(), ElementsAre(1, 2, 3));
}

template <typename T>
class Hdf5TypeTest : public Hdf5Test {};
using ElementTypes = testing::Types<float, double, std::uint8_t, std::int32_t, std::int64_t, std::uint64_t>;
TYPED_TEST_SUITE(Hdf5TypeTest, ElementTypes);

TYPED_TEST(Hdf5TypeTest, ExtremesSurvive) {
  const std::vector<TypeParam> values{std::numeric_limits<TypeParam>::lowest(), 0, 1,
                                      std::numeric_limits<TypeParam>::max()};
  File file = File::create(this->path);
  file.create_dataset<TypeParam>("values", {4}).write(0, std::span(values));
  file.close();
  const Dataset in = File::open(this->path).dataset("values");
  EXPECT_EQ(in.read_all<TypeParam>(), values);
}

TEST_F(Hdf5Test, DatasetsWithoutDimensionsAndWithoutElementsWork) {
  File file = File::create(path);
  file.create_dataset<float>("scalar", {}).write(0, std::span<const float>(std::vector<float>{2.5f}));
  file.create_dataset<float>("empty", {0}).write(0, std::span<const float>());
  file.close();
  EXPECT_THAT(File::open(path).dataset("scalar").read_all<float>(), ElementsAre(2.5f));
  EXPECT_THAT(File::open(path).dataset("empty").read_all<float>(), ElementsAre());
}

TEST_F(Hdf5Test, AttributesOfFilesAndDatasetsSurvive) {
  {
    File file = File::create(path);
    file.set_attribute("name", "mtp-data");
    file.set_attribute("step", std::int64_t{-5});
    file.set_attribute("seed", std::numeric_limits<std::uint64_t>::max());
    Dataset dataset = file.create_dataset<float>("x", {1});
    dataset.set_attribute("rate", 0.1);
    dataset.set_attribute("empty", "");
  }
  const File file = File::open(path);
  EXPECT_EQ(file.attribute<std::string>("name"), "mtp-data");
  EXPECT_EQ(file.attribute<std::int64_t>("step"), -5);
  EXPECT_EQ(file.attribute<std::uint64_t>("seed"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(file.dataset("x").attribute<double>("rate"), 0.1);
  EXPECT_EQ(file.dataset("x").attribute<std::string>("empty"), "");
  EXPECT_TRUE(file.has_attribute("step"));
  EXPECT_FALSE(file.has_attribute("rate"));
}

TEST_F(Hdf5Test, StringsOfFixedLengthAreRead) {
  {
    const Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
    const Handle type(H5Tcopy(H5T_C_S1)), space(H5Screate(H5S_SCALAR));
    H5Tset_size(type.id(), 8);
    const Handle attribute(H5Acreate2(file.id(), "name", type.id(), space.id(), H5P_DEFAULT, H5P_DEFAULT));
    H5Awrite(attribute.id(), type.id(), "abc\0\0\0\0");
  }
  EXPECT_EQ(File::open(path).attribute<std::string>("name"), "abc");
}

TEST_F(Hdf5Test, AnAttributeThatIsMissingOrOfAnotherTypeIsNamed) {
  File file = File::create(path);
  file.set_attribute("name", "text");
  file.set_attribute("big", std::numeric_limits<std::uint64_t>::max());
  const std::string where = path.string();
  EXPECT_EQ(error_of([&] { file.attribute<double>("none"); }), where + " has no attribute none");
  EXPECT_EQ(error_of([&] { file.attribute<std::int64_t>("name"); }), where + ": attribute name must be an integer");
  EXPECT_EQ(error_of([&] { file.attribute<std::string>("big"); }), where + ": attribute big must be a string");
  EXPECT_EQ(error_of([&] { file.attribute<std::int64_t>("big"); }),
            where + ": attribute big: 18446744073709551615 is out of range");
}

TEST_F(Hdf5Test, ListsNamesAndKnowsWhichExist) {
  File file = File::create(path);
  file.create_dataset<float>("group/y", {1});
  file.create_dataset<float>("group/x", {1});
  file.create_dataset<float>("z", {1});
  EXPECT_THAT(file.links(), ElementsAre("group", "z"));
  EXPECT_THAT(file.links("group"), ElementsAre("x", "y"));
  EXPECT_TRUE(file.exists("group/x"));
  EXPECT_FALSE(file.exists("group/z"));
  EXPECT_FALSE(file.exists("none/x"));
}

TEST_F(Hdf5Test, AFileThatCannotBeOpenedIsNamedWithTheReason) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(error_of([&] { File::open(path); }),
            path.string() + ": cannot open as an HDF5 file: No such file or directory");
  std::ofstream(path) << "not HDF5";
  EXPECT_THAT(error_of([&] { File::open(path); }), HasSubstr(path.string() + ": cannot open as an HDF5 file: "));
  EXPECT_THAT(error_of([&] { File::create(dir.path() / "none" / "file.h5"); }),
              HasSubstr("none/file.h5: cannot create: No such file or directory"));
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "HDF5 must not print its own error stack";
}

TEST_F(Hdf5Test, ATruncatedFileIsAnError) {
  {
    File file = File::create(path);
    file.create_dataset<std::int64_t>("x", {1000})
        .write(0, std::span<const std::int64_t>(std::vector<std::int64_t>(1000)));
  }
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  EXPECT_THAT(error_of([&] { File::open(path); }),
              AllOf(HasSubstr(path.string()), HasSubstr("truncated"), Not(HasSubstr("\n"))));
}

TEST_F(Hdf5Test, ADatasetReadWronglyIsNamed) {
  File file = File::create(path);
  const Dataset dataset = file.create_dataset<std::int32_t>("ids", {5});
  const std::string where = path.string();
  std::vector<std::int32_t> three(3);
  EXPECT_EQ(error_of([&] { file.dataset("none"); }), where + " has no dataset none");
  EXPECT_EQ(error_of([&] { dataset.read_all<std::int64_t>(); }),
            where + ": dataset ids has elements of int32, it must have int64");
  EXPECT_EQ(error_of([&] { dataset.read_all<float>(); }),
            where + ": dataset ids has elements of int32, it must have float32");
  EXPECT_EQ(error_of([&] { dataset.read(3, std::span(three)); }),
            where + ": dataset ids: 3 rows from row 3 on are asked for, it has 5");
  EXPECT_THAT(error_of([&] { file.create_dataset<float>("ids", {1}); }), HasSubstr("dataset ids: cannot create: "));
}

// What h5py writes and this program does not.
void write_chunked(const std::filesystem::path& path) {
  const hsize_t size = 10, chunk = 4;  // the last chunk sticks out
  const std::vector<int> values(size);
  const Handle file(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)),
      space(H5Screate_simple(1, &size, nullptr)), creation(H5Pcreate(H5P_DATASET_CREATE));
  H5Pset_chunk(creation.id(), 1, &chunk);
  const auto create = [&](const char* name) {
    return Handle(H5Dcreate2(file.id(), name, H5T_NATIVE_INT, space.id(), H5P_DEFAULT, creation.id(), H5P_DEFAULT));
  };
  H5Dwrite(create("whole").id(), H5T_NATIVE_INT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data());
  create("empty");
}

TEST_F(Hdf5Test, AChunkedDatasetIsStoredOnceEveryChunkIsWritten) {
  write_chunked(path);
  const File file = File::open(path);
  EXPECT_EQ(error_of([&] { file.dataset("whole").check_is_stored(); }), "no error");
  EXPECT_THAT(error_of([&] { file.dataset("empty").check_is_stored(); }), HasSubstr("dataset empty was never written"));
}

TEST_F(Hdf5Test, AFullDiskIsAnErrorThatNamesTheFile) {
  File file = File::create(path);
  Dataset dataset = file.create_dataset<float>("x", {1 << 20});
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{.rlim_cur = 1 << 20, .rlim_max = before.rlim_max};
  std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string message = error_of([&] {
    dataset.write(0, std::span<const float>(std::vector<float>(1 << 20)));
    file.close();
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(message, path.string() + ": dataset x: cannot write: File too large");
}

TEST_F(Hdf5Test, SeveralThreadsMayReadOneFile) {
  std::vector<std::int64_t> values(10000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = i;
  File out = File::create(path);
  out.create_dataset<std::int64_t>("x", {10000}).write(0, std::span<const std::int64_t>(values));
  out.close();
  const File file = File::open(path);
  std::vector<std::vector<std::int64_t>> read(4);
  {
    std::vector<std::jthread> threads;
    for (auto& part : read) threads.emplace_back([&] { part = file.dataset("x").read_all<std::int64_t>(); });
  }
  for (const auto& part : read) EXPECT_EQ(part, values);
}

}  // namespace
}  // namespace mtp::hdf5
