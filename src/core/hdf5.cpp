#include "mtp/core/hdf5.h"

#include <unistd.h>

#include <algorithm>
#include <functional>
#include <mutex>
#include <numeric>
#include <type_traits>
#include <utility>

#include "mtp/core/error.h"
#include "mtp/core/file.h"

namespace mtp::hdf5 {
namespace {

constexpr hsize_t most_elements = hsize_t{1} << 48;

// Held by whoever calls HDF5. Recursive, because closing a handle inside an operation takes it again.
std::recursive_mutex mutex;

class Lock {
 public:
  Lock() : guard_(mutex) { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }  // the library prints nothing by itself

 private:
  std::lock_guard<std::recursive_mutex> guard_;
};

// The innermost entry of HDF5's error stack, the cause; of a failed system call the system's own words.
std::string cause() {
  std::string text;
  const auto keep_first = [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
    auto& first = *static_cast<std::string*>(out);
    if (first.empty() && entry->desc != nullptr) first = entry->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &text);
  const std::string marker = "error message = '";
  if (const auto begin = text.find(marker); begin != std::string::npos) {
    text.erase(0, begin + marker.size());
    text.erase(std::min(text.find('\''), text.size()));
  }
  return text.empty() ? "no reason given" : text;
}

// HDF5 returns a negative number on failure, from every function.
template <typename Result>
Result check(Result result, const std::string& where, const char* action) {
  if (result < 0) throw Error("{}: cannot {}: {}", where, action, cause());
  return result;
}

Handle owned(hid_t id, const std::string& where, const char* action) { return Handle(check(id, where, action)); }

std::vector<hsize_t> sizes(const std::vector<std::int64_t>& shape) { return {shape.begin(), shape.end()}; }

Handle space_of(const std::vector<std::int64_t>& shape, const std::string& where) {
  const auto dims = sizes(shape);
  const hid_t id =
      dims.empty() ? H5Screate(H5S_SCALAR) : H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr);
  return owned(id, where, "describe a shape");
}

// A selection of whole rows in the file, and the memory they go to or come from.
struct Selection {
  Handle file;
  Handle memory;
};

Selection select_rows(const Handle& dataset, const std::vector<std::int64_t>& shape, std::int64_t first,
                      std::size_t count, const std::string& where) {
  std::int64_t row = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) row *= shape[i];
  const std::int64_t all_rows = shape.empty() ? 1 : shape[0];
  const auto elements = static_cast<std::int64_t>(count);
  MTP_ASSERT(row > 0 && elements % row == 0);
  const std::int64_t rows = elements / row;
  if (first < 0 || rows > all_rows - first)
    throw Error("{}: {} rows from row {} on are asked for, it has {}", where, rows, first, all_rows);

  Selection selection{.file = owned(H5Dget_space(dataset.id()), where, "read the shape"),
                      .memory = space_of({elements}, where)};
  if (!shape.empty()) {
    std::vector<hsize_t> start(shape.size(), 0), extent = sizes(shape);
    start[0] = first;
    extent[0] = rows;
    check(H5Sselect_hyperslab(selection.file.id(), H5S_SELECT_SET, start.data(), nullptr, extent.data(), nullptr),
          where, "select rows");
  }
  return selection;
}

std::string type_name(hid_t type) {
  const auto bits = H5Tget_size(type) * 8;
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
      return fmt::format("{}int{}", H5Tget_sign(type) == H5T_SGN_NONE ? "u" : "", bits);
    case H5T_FLOAT:
      return fmt::format("float{}", bits);
    default:
      return "another type";
  }
}

// Byte order is HDF5's business; any other difference would be a conversion that may clip.
void check_type(const Handle& dataset, hid_t wanted, const std::string& where) {
  const Handle stored = owned(H5Dget_type(dataset.id()), where, "read the type");
  if (type_name(stored.id()) != type_name(wanted))
    throw Error("{} has elements of {}, it must have {}", where, type_name(stored.id()), type_name(wanted));
}

std::string read_string(const Handle& attribute, const Handle& type, const std::string& where) {
  if (H5Tis_variable_str(type.id()) > 0) {
    char* text = nullptr;
    check(H5Aread(attribute.id(), type.id(), &text), where, "read");
    const std::string value = text == nullptr ? "" : text;
    H5free_memory(text);
    return value;
  }
  std::string value(H5Tget_size(type.id()), '\0');
  check(H5Aread(attribute.id(), type.id(), value.data()), where, "read");
  return value.substr(0, value.find('\0'));
}

template <typename T>
T read_number(const Handle& attribute, const std::string& where) {
  T value{};
  check(H5Aread(attribute.id(), native_type<T>(), &value), where, "read");
  return value;
}

// HDF5 would clip a number that does not fit.
template <typename T>
T read_integer(const Handle& attribute, const Handle& type, const std::string& where) {
  const auto fitting = [&](auto value) {
    if (!std::in_range<T>(value)) throw Error("{}: {} is out of range", where, value);
    return static_cast<T>(value);
  };
  if (H5Tget_sign(type.id()) == H5T_SGN_NONE) return fitting(read_number<std::uint64_t>(attribute, where));
  return fitting(read_number<std::int64_t>(attribute, where));
}

Handle string_type(const std::string& where) {
  Handle type = owned(H5Tcopy(H5T_C_S1), where, "make a string type");
  check(H5Tset_size(type.id(), H5T_VARIABLE), where, "make a string type");
  check(H5Tset_cset(type.id(), H5T_CSET_UTF8), where, "make a string type");
  return type;
}

void write_attribute(const Handle& object, const std::string& where, const std::string& name, hid_t type,
                     const void* value) {
  const std::string attribute_where = fmt::format("{}: attribute {}", where, name);
  const Handle space = space_of({}, attribute_where);
  const Handle attribute = owned(H5Acreate2(object.id(), name.c_str(), type, space.id(), H5P_DEFAULT, H5P_DEFAULT),
                                 attribute_where, "create");
  check(H5Awrite(attribute.id(), type, value), attribute_where, "write");
}

Handle file_access(const std::string& where) {
  Handle access = owned(H5Pcreate(H5P_FILE_ACCESS), where, "prepare the access");
  check(H5Pset_file_locking(access.id(), false, true), where, "turn file locks off");
  return access;
}

// Without the time that it was made at: equal contents make equal files.
Handle dataset_creation(const std::string& where) {
  Handle creation = owned(H5Pcreate(H5P_DATASET_CREATE), where, "prepare a dataset");
  check(H5Pset_obj_track_times(creation.id(), false), where, "prepare a dataset");
  return creation;
}

Handle link_creation(const std::string& where) {
  Handle creation = owned(H5Pcreate(H5P_LINK_CREATE), where, "prepare a link");
  check(H5Pset_create_intermediate_group(creation.id(), 1), where, "prepare a link");
  return creation;
}

// A box of elements of an array.
struct Box {
  std::vector<hsize_t> start, extent;
};

// The elements begin … end - 1 of the dimensions from `dimension` on, counted row by row, as boxes in that order: the
// end of a row, whole rows, the beginning of a row. `box` holds the indices of the dimensions before.
void add_boxes(const std::vector<hsize_t>& shape, std::size_t dimension, Box box, hsize_t begin, hsize_t end,
               std::vector<Box>& boxes) {
  hsize_t row = 1;
  for (std::size_t i = dimension + 1; i < shape.size(); ++i) row *= shape[i];
  const auto add_part_of_row = [&](hsize_t index, hsize_t from, hsize_t to) {
    box.start[dimension] = index;
    box.extent[dimension] = 1;
    add_boxes(shape, dimension + 1, box, from, to, boxes);
  };
  const hsize_t first = (begin + row - 1) / row, last = end / row;
  if (first > last) return add_part_of_row(last, begin - last * row, end - last * row);
  if (begin < first * row) add_part_of_row(first - 1, begin - (first - 1) * row, row);
  if (first < last) {
    Box rows{box.start, shape};
    std::copy_n(box.extent.begin(), dimension, rows.extent.begin());
    rows.start[dimension] = first;
    rows.extent[dimension] = last - first;
    std::fill(rows.start.begin() + static_cast<std::ptrdiff_t>(dimension) + 1, rows.start.end(), 0);
    boxes.push_back(rows);
  }
  if (last * row < end) add_part_of_row(last, 0, end - last * row);
}

void add_part(const Handle& creation, const std::vector<std::int64_t>& shape, const VirtualPart& part,
              const std::string& where) {
  const std::vector<hsize_t> dims = sizes(shape);
  std::vector<Box> boxes;
  add_boxes(dims, 0, {dims, dims}, static_cast<hsize_t>(part.begin), static_cast<hsize_t>(part.begin + part.elements),
            boxes);
  const Handle shown = space_of(shape, where), stored = space_of({part.elements}, where);
  hsize_t position = 0;
  for (const Box& box : boxes) {
    const hsize_t count = std::accumulate(box.extent.begin(), box.extent.end(), hsize_t{1}, std::multiplies());
    check(H5Sselect_hyperslab(shown.id(), H5S_SELECT_SET, box.start.data(), nullptr, box.extent.data(), nullptr), where,
          "select elements");
    check(H5Sselect_hyperslab(stored.id(), H5S_SELECT_SET, &position, nullptr, &count, nullptr), where,
          "select elements");
    check(H5Pset_virtual(creation.id(), shown.id(), part.file.c_str(), part.dataset.c_str(), stored.id()), where,
          "describe a part");
    position += count;
  }
}

// Whether all of a dataset's storage exists. HDF5's own space status takes a last chunk that sticks out for a hole.
bool is_written(const Handle& dataset, const Handle& creation, const std::vector<std::int64_t>& shape,
                const std::string& where) {
  if (H5Pget_layout(creation.id()) != H5D_CHUNKED) {
    H5D_space_status_t status{};
    check(H5Dget_space_status(dataset.id(), &status), where, "read the layout");
    return status == H5D_SPACE_STATUS_ALLOCATED;
  }
  std::vector<hsize_t> chunk(shape.size(), 1);
  check(H5Pget_chunk(creation.id(), static_cast<int>(chunk.size()), chunk.data()), where, "read the layout");
  hsize_t needed = 1, written = 0;
  for (std::size_t i = 0; i < shape.size(); ++i) needed *= (static_cast<hsize_t>(shape[i]) - 1) / chunk[i] + 1;
  const Handle space = owned(H5Dget_space(dataset.id()), where, "read the shape");
  check(H5Dget_num_chunks(dataset.id(), space.id(), &written), where, "count the chunks");
  return written == needed;
}

std::vector<std::int64_t> shape_of(const Handle& dataset, const std::string& where) {
  const Handle space = owned(H5Dget_space(dataset.id()), where, "read the shape");
  std::vector<hsize_t> dims(check(H5Sget_simple_extent_ndims(space.id()), where, "read the shape"));
  check(H5Sget_simple_extent_dims(space.id(), dims.data(), nullptr), where, "read the shape");
  hsize_t elements = 1;
  for (const hsize_t size : dims)
    if (__builtin_mul_overflow(elements, size, &elements) || elements > most_elements)
      throw Error("{} has more elements than any file can", where);
  return {dims.begin(), dims.end()};
}

}  // namespace

template <typename T>
hid_t native_type() {
  const Lock lock;
  if constexpr (std::is_same_v<T, float>) return H5T_NATIVE_FLOAT;
  if constexpr (std::is_same_v<T, double>) return H5T_NATIVE_DOUBLE;
  if constexpr (std::is_same_v<T, std::uint8_t>) return H5T_NATIVE_UINT8;
  if constexpr (std::is_same_v<T, std::int32_t>) return H5T_NATIVE_INT32;
  if constexpr (std::is_same_v<T, std::int64_t>) return H5T_NATIVE_INT64;
  if constexpr (std::is_same_v<T, std::uint64_t>) return H5T_NATIVE_UINT64;
}
template hid_t native_type<float>();
template hid_t native_type<double>();
template hid_t native_type<std::uint8_t>();
template hid_t native_type<std::int32_t>();
template hid_t native_type<std::int64_t>();
template hid_t native_type<std::uint64_t>();

Handle::Handle(const Handle& other) : id_(other.id_) {
  const Lock lock;
  if (id_ >= 0) H5Iinc_ref(id_);
}

Handle::~Handle() {
  if (id_ < 0) return;
  const Lock lock;
  H5Idec_ref(id_);
}

bool Object::has_attribute(const std::string& name) const {
  const Lock lock;
  return check(H5Aexists(handle_.id(), name.c_str()), where_, "look for an attribute") > 0;
}

template <typename T>
T Object::attribute(const std::string& name) const {
  const Lock lock;
  if (!has_attribute(name)) throw Error("{} has no attribute {}", where_, name);
  const std::string where = fmt::format("{}: attribute {}", where_, name);
  const Handle attribute = owned(H5Aopen(handle_.id(), name.c_str(), H5P_DEFAULT), where, "open");
  const Handle type = owned(H5Aget_type(attribute.id()), where, "read the type");
  const Handle space = owned(H5Aget_space(attribute.id()), where, "read the shape");
  if (H5Sget_simple_extent_npoints(space.id()) != 1) throw Error("{} must be one value", where);
  const auto stored = H5Tget_class(type.id());
  if constexpr (std::is_same_v<T, std::string>) {
    if (stored != H5T_STRING) throw Error("{} must be a string", where);
    return read_string(attribute, type, where);
  } else if constexpr (std::is_integral_v<T>) {
    if (stored != H5T_INTEGER) throw Error("{} must be an integer", where);
    return read_integer<T>(attribute, type, where);
  } else {
    if (stored != H5T_FLOAT) throw Error("{} must be a floating-point number", where);
    return read_number<T>(attribute, where);
  }
}
template std::int64_t Object::attribute(const std::string&) const;
template std::uint64_t Object::attribute(const std::string&) const;
template double Object::attribute(const std::string&) const;
template std::string Object::attribute(const std::string&) const;

void Object::set_attribute(const std::string& name, std::int64_t value) {
  const Lock lock;
  write_attribute(handle_, where_, name, native_type<std::int64_t>(), &value);
}

void Object::set_attribute(const std::string& name, std::uint64_t value) {
  const Lock lock;
  write_attribute(handle_, where_, name, native_type<std::uint64_t>(), &value);
}

void Object::set_attribute(const std::string& name, double value) {
  const Lock lock;
  write_attribute(handle_, where_, name, native_type<double>(), &value);
}

void Object::set_attribute(const std::string& name, const std::string& value) {
  const Lock lock;
  const char* text = value.c_str();
  write_attribute(handle_, where_, name, string_type(where_).id(), &text);
}

Dataset::Dataset(Handle handle, std::string where)
    : Object(std::move(handle), std::move(where)), shape_(shape_of(handle_, where_)) {}

std::int64_t Dataset::elements() const {
  return std::accumulate(shape_.begin(), shape_.end(), std::int64_t{1}, std::multiplies());
}

void Dataset::check_is_stored() const {
  const Lock lock;
  const Handle creation = owned(H5Dget_create_plist(handle_.id()), where_, "read the layout");
  if (check(H5Pget_layout(creation.id()), where_, "read the layout") == H5D_VIRTUAL)
    throw Error("{} is virtual, its elements must lie in the file itself", where_);
  if (check(H5Pget_external_count(creation.id()), where_, "read the layout") > 0)
    throw Error("{} has its elements in another file, they must lie in the file itself", where_);
  hsize_t file_size = 0;
  const Handle file = owned(H5Iget_file_id(handle_.id()), where_, "find the file");
  check(H5Fget_filesize(file.id(), &file_size), where_, "read the file's size");
  if (H5Dget_storage_size(handle_.id()) > file_size) throw Error("{} is larger than its file", where_);
  if (elements() > 0 && !is_written(handle_, creation, shape_, where_))
    throw Error("{} was never written as a whole", where_);
}

std::int64_t Dataset::position_in_file() const {
  const Lock lock;
  const haddr_t position = H5Dget_offset(handle_.id());
  if (position == HADDR_UNDEF) throw Error("{} has no room of its own in the file", where_);
  return static_cast<std::int64_t>(position);
}

void Dataset::read_rows(std::int64_t first, hid_t type, std::size_t count, void* values) const {
  const Lock lock;
  check_type(handle_, type, where_);
  if (count == 0) return;
  const Selection rows = select_rows(handle_, shape_, first, count, where_);
  check(H5Dread(handle_.id(), type, rows.memory.id(), rows.file.id(), H5P_DEFAULT, values), where_, "read");
}

void Dataset::write_rows(std::int64_t first, hid_t type, std::size_t count, const void* values) {
  const Lock lock;
  check_type(handle_, type, where_);
  if (count == 0) return;
  const Selection rows = select_rows(handle_, shape_, first, count, where_);
  check(H5Dwrite(handle_.id(), type, rows.memory.id(), rows.file.id(), H5P_DEFAULT, values), where_, "write");
}

namespace {

constexpr const char* shared_memory = "/dev/shm";

/// For a layout: kilobytes for each dataset. Other jobs may have filled it, and it may be read-only.
bool has_room(const std::filesystem::path& folder) {
  constexpr std::int64_t enough = std::int64_t{16} << 20;
  return access(folder.c_str(), W_OK | X_OK) == 0 && free_bytes(folder) >= enough;
}

}  // namespace

File File::open(const std::filesystem::path& path) {
  const Lock lock;
  check_is_file(path);
  const std::string where = path.string();
  return {owned(H5Fopen(where.c_str(), H5F_ACC_RDONLY, file_access(where).id()), where, "open as an HDF5 file"), where};
}

File File::create(const std::filesystem::path& path) {
  const Lock lock;
  const std::string where = path.string();
  return {owned(H5Fcreate(where.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, file_access(where).id()), where, "create"), where};
}

std::pair<File, RandomAccessFile> File::create_in_memory(const std::filesystem::path& else_in) {
  RandomAccessFile bytes = RandomAccessFile::temporary(has_room(shared_memory) ? shared_memory : else_in);
  try {
    File file = create(bytes.path());
    bytes.unlink();
    return {std::move(file), std::move(bytes)};
  } catch (...) {
    bytes.unlink();
    throw;
  }
}

bool File::exists(const std::string& name) const {
  const Lock lock;
  // HDF5 wants every group on the way to exist before it looks for the next name.
  for (std::size_t slash = 0; slash != std::string::npos;) {
    slash = name.find('/', slash + 1);
    if (check(H5Lexists(handle_.id(), name.substr(0, slash).c_str(), H5P_DEFAULT), where_, "look for a name") == 0)
      return false;
  }
  return true;
}

Dataset File::dataset(const std::string& name) const {
  const Lock lock;
  if (!exists(name)) throw Error("{} has no dataset {}", where_, name);
  const std::string where = fmt::format("{}: dataset {}", where_, name);
  return {owned(H5Dopen2(handle_.id(), name.c_str(), H5P_DEFAULT), where, "open"), where};
}

Dataset File::create_dataset(const std::string& name, const std::vector<std::int64_t>& shape, hid_t type,
                             const Handle& creation) {
  const std::string where = fmt::format("{}: dataset {}", where_, name);
  const Handle space = space_of(shape, where);
  return {owned(H5Dcreate2(handle_.id(), name.c_str(), type, space.id(), link_creation(where).id(), creation.id(),
                           H5P_DEFAULT),
                where, "create"),
          where};
}

Dataset File::create_dataset(const std::string& name, const std::vector<std::int64_t>& shape, hid_t type) {
  const Lock lock;
  return create_dataset(name, shape, type, dataset_creation(where_));
}

Dataset File::reserve_dataset(const std::string& name, const std::vector<std::int64_t>& shape, hid_t type) {
  const Lock lock;
  const Handle creation = dataset_creation(where_);
  check(H5Pset_alloc_time(creation.id(), H5D_ALLOC_TIME_EARLY), where_, "set room aside");
  check(H5Pset_fill_time(creation.id(), H5D_FILL_TIME_NEVER), where_, "set room aside");
  return create_dataset(name, shape, type, creation);
}

Dataset File::create_virtual_dataset(const std::string& name, const std::vector<std::int64_t>& shape,
                                     const std::vector<VirtualPart>& parts, hid_t type) {
  const Lock lock;
  MTP_ASSERT(!shape.empty());
  const Handle creation = dataset_creation(where_);
  for (const VirtualPart& part : parts) add_part(creation, shape, part, fmt::format("{}: dataset {}", where_, name));
  return create_dataset(name, shape, type, creation);
}

std::vector<std::string> File::links(const std::string& group) const {
  const Lock lock;
  const std::string where = fmt::format("{}: group {}", where_, group);
  const Handle id = owned(H5Gopen2(handle_.id(), group.c_str(), H5P_DEFAULT), where, "open");
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  check(H5Literate(id.id(), H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names), where, "list the names");
  return names;
}

void File::close() {
  const Lock lock;
  check(H5Fflush(handle_.id(), H5F_SCOPE_LOCAL), where_, "write");
  check(H5Fclose(handle_.release()), where_, "close");
}

}  // namespace mtp::hdf5
