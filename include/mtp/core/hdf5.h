#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "mtp/core/file.h"

// A small layer over HDF5's C interface. Every function holds one process-wide lock, because HDF5 need not be
// thread-safe; files are opened without file locks, which some cluster file systems lack. Every failure is an Error of
// one line that names the file and the object.
namespace mtp::hdf5 {

/// Element types of datasets: float, double, std::int32_t, std::int64_t, std::uint8_t, std::uint64_t.
template <typename T>
hid_t native_type();

/// A counted HDF5 identifier of any kind; the last copy closes it.
class Handle {
 public:
  Handle() = default;
  explicit Handle(hid_t id) : id_(id) {}
  Handle(const Handle& other);
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)) {}
  Handle& operator=(Handle other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Handle();

  hid_t id() const { return id_; }
  /// Gives the identifier away: it is no longer closed here.
  hid_t release() { return std::exchange(id_, H5I_INVALID_HID); }

 private:
  hid_t id_ = H5I_INVALID_HID;
};

/// Something with attributes: a file (its root group) or a dataset.
class Object {
 public:
  bool has_attribute(const std::string& name) const;

  /// T: std::int64_t or std::uint64_t (stored as any integer; it must fit), double (any float), std::string (fixed or
  /// variable length).
  template <typename T>
  T attribute(const std::string& name) const;

  void set_attribute(const std::string& name, std::int64_t value);
  void set_attribute(const std::string& name, std::uint64_t value);
  void set_attribute(const std::string& name, double value);
  void set_attribute(const std::string& name, const std::string& value);

 protected:
  Object(Handle handle, std::string where) : handle_(std::move(handle)), where_(std::move(where)) {}

  Handle handle_;
  std::string where_;  // "data.h5" or "data.h5: dataset tokens", the start of every message
};

/// An array of any number of dimensions. Parts are ranges of its rows, the indices of the first
/// dimension, so of a 1-D dataset its elements; a dataset of shape [] has one row.
class Dataset : public Object {
 public:
  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::int64_t elements() const;
  /// Throws Error unless every element lies in this file. HDF5 reads what was never written, and what a virtual or
  /// external dataset's missing source should have given, as zeros.
  void check_is_stored() const;
  /// Where its elements begin in the file, of one made by `File::reserve_dataset`: they may be written there, in the
  /// native byte order, once the file is closed.
  std::int64_t position_in_file() const;

  /// Reads or writes whole rows from row `first` on. `values` must fill them exactly. The stored type must be T up to
  /// byte order: nothing is converted or clipped.
  template <typename T>
  void read(std::int64_t first, std::span<T> values) const {
    read_rows(first, native_type<T>(), values.size(), values.data());
  }
  template <typename T>
  void write(std::int64_t first, std::span<const T> values) {
    write_rows(first, native_type<T>(), values.size(), values.data());
  }

  template <typename T>
  std::vector<T> read_all() const {
    std::vector<T> values(elements());
    read(0, std::span(values));
    return values;
  }

 private:
  friend class File;
  Dataset(Handle handle, std::string where);
  void read_rows(std::int64_t first, hid_t type, std::size_t count, void* values) const;
  void write_rows(std::int64_t first, hid_t type, std::size_t count, const void* values);

  std::vector<std::int64_t> shape_;
};

/// A part of a virtual dataset: its elements begin … begin + elements - 1, counted row by row, are those of the 1-D
/// dataset `dataset` of `file`, named from the folder of the file that holds the virtual one.
struct VirtualPart {
  std::string file, dataset;
  std::int64_t begin = 0, elements = 0;
};

class File : public Object {
 public:
  /// Opens for reading.
  static File open(const std::filesystem::path& path);
  /// Creates an empty file, or empties an existing one.
  static File create(const std::filesystem::path& path);
  /// Creates a file in memory, without a name; its bytes are in the second, once the first is closed. Where /dev/shm
  /// has no room for it, it lies in the folder `else_in`, on a disk.
  static std::pair<File, RandomAccessFile> create_in_memory(const std::filesystem::path& else_in);

  /// Names below may be paths with `/`; missing groups are made.
  bool exists(const std::string& name) const;
  Dataset dataset(const std::string& name) const;
  template <typename T>
  Dataset create_dataset(const std::string& name, const std::vector<std::int64_t>& shape) {
    return create_dataset(name, shape, native_type<T>());
  }
  /// A dataset whose room in the file is set aside but not written.
  template <typename T>
  Dataset reserve_dataset(const std::string& name, const std::vector<std::int64_t>& shape) {
    return reserve_dataset(name, shape, native_type<T>());
  }
  /// A dataset [at least one dimension] that shows elements of other files. Where a file is missing or short, HDF5
  /// shows zeros without a word: whoever reads must check the files first.
  template <typename T>
  Dataset create_virtual_dataset(const std::string& name, const std::vector<std::int64_t>& shape,
                                 const std::vector<VirtualPart>& parts) {
    return create_virtual_dataset(name, shape, parts, native_type<T>());
  }
  /// Names of the datasets and groups in a group, in the order of their bytes.
  std::vector<std::string> links(const std::string& group = "/") const;

  /// Hands everything written to the operating system and closes the file. Without it the destructor closes, and a
  /// write that fails only then (a full disk) stays unseen.
  void close();

 private:
  using Object::Object;
  Dataset create_dataset(const std::string& name, const std::vector<std::int64_t>& shape, hid_t type);
  Dataset reserve_dataset(const std::string& name, const std::vector<std::int64_t>& shape, hid_t type);
  Dataset create_virtual_dataset(const std::string& name, const std::vector<std::int64_t>& shape,
                                 const std::vector<VirtualPart>& parts, hid_t type);
  Dataset create_dataset(const std::string& name, const std::vector<std::int64_t>& shape, hid_t type,
                         const Handle& creation);
};

}  // namespace mtp::hdf5
