#include "serving/frozen_table.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

namespace embery {
namespace {

constexpr char kMagic[] = {'E', 'M', 'B', 'E', 'R', 'Y', 'T', 'B'};
constexpr uint32_t kDimMax = 4096;

constexpr size_t RoundUp(size_t bytes) {
  return (bytes + kFrozenPageBytes - 1) / kFrozenPageBytes * kFrozenPageBytes;
}

// Where the arrays of the file begin, and where it ends.
struct Layout {
  explicit Layout(const FrozenHeader& header)
      : keys(RoundUp(starts + (header.buckets + 1) * sizeof(uint32_t))),
        values(RoundUp(keys + header.rows * sizeof(uint64_t))),
        end(values + header.rows * header.row_bytes) {}

  static constexpr size_t starts = kFrozenPageBytes;
  size_t keys;
  size_t values;
  size_t end;
};

uint64_t BucketsFor(uint64_t rows) {
  return std::max<uint64_t>(1, (rows + kFrozenKeysPerBucket - 1) / kFrozenKeysPerBucket);
}

Status Corrupt(const std::string& path, const std::string& what) {
  return {StatusCode::kCheckpointCorrupt, path + ": " + what};
}

Status Check(const FrozenHeader& header, const std::string& path) {
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) {
    return Corrupt(path,
                   "expected a table of a bundle, which begins with EMBERYTB; it is damaged "
                   "or another program's file");
  }
  if (header.version != kFrozenTableVersion) {
    return Corrupt(path, "expected version " + std::to_string(kFrozenTableVersion) + ", got " +
                             std::to_string(header.version) +
                             "; read it with the version of Embery that wrote it, or a later one");
  }
  const bool fits =
      header.value_type < kValueTypes && header.dim >= 1 && header.dim <= kDimMax &&
      header.rows <= kFrozenRowsMax && header.buckets == BucketsFor(header.rows) &&
      header.row_bytes == ValueBytes(static_cast<ValueType>(header.value_type), header.dim);
  if (fits) return Status::Ok();
  return Corrupt(path, "its header does not fit together: value type " +
                           std::to_string(header.value_type) + ", dim " +
                           std::to_string(header.dim) + ", " + std::to_string(header.row_bytes) +
                           " bytes a row, " + std::to_string(header.rows) + " rows, " +
                           std::to_string(header.buckets) + " buckets; the file is damaged");
}

class Descriptor {
 public:
  explicit Descriptor(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }

 private:
  const int fd_;
};

Status CannotRead(const std::string& path) {
  return Status::Unavailable(path + ": cannot read: " + std::generic_category().message(errno));
}

}  // namespace

Result<std::shared_ptr<const FrozenTable>> FrozenTable::Open(const std::string& path) {
  Result<std::shared_ptr<FrozenTable>> table = Map(path);
  EMBERY_RETURN_IF_ERROR(table.status());
  return std::shared_ptr<const FrozenTable>(std::move(table).value());
}

Result<std::shared_ptr<const FrozenTable>> FrozenTable::OpenChanges(
    const std::string& path, std::shared_ptr<const FrozenTable> base) {
  Result<std::shared_ptr<FrozenTable>> mapped = Map(path);
  EMBERY_RETURN_IF_ERROR(mapped.status());
  std::shared_ptr<FrozenTable> table = std::move(mapped).value();
  const FrozenHeader &ours = table->header_, &theirs = base->header_;
  const bool same = ours.salt == theirs.salt && ours.dim == theirs.dim &&
                    ours.value_type == theirs.value_type && base->base_ == nullptr;
  if (!same) {
    return Corrupt(path,
                   "its rows are not changes of the table that it is laid over: another "
                   "name, dim or value type");
  }
  table->base_ = std::move(base);
  return std::shared_ptr<const FrozenTable>(std::move(table));
}

int64_t FrozenTable::Position(uint64_t key) const {
  const std::byte* row = FindIn(BucketOf(key), key);
  if (row == nullptr) return -1;
  return static_cast<int64_t>(static_cast<size_t>(row - values_) / row_bytes());
}

Result<std::shared_ptr<FrozenTable>> FrozenTable::Map(const std::string& path) {
  const Descriptor file(path);
  struct stat found = {};
  if (file.get() < 0 || fstat(file.get(), &found) != 0) return CannotRead(path);
  const auto bytes = static_cast<size_t>(found.st_size);
  FrozenHeader header{};
  if (pread(file.get(), &header, sizeof(header), /*offset=*/0) < 0) return CannotRead(path);
  if (bytes < kFrozenPageBytes) {
    return Corrupt(path, "expected a header of " + std::to_string(kFrozenPageBytes) +
                             " bytes, got a file of " + std::to_string(bytes) +
                             "; it is cut short");
  }
  EMBERY_RETURN_IF_ERROR(Check(header, path));
  const Layout layout(header);
  if (bytes != layout.end) {
    return Corrupt(path, "expected " + std::to_string(layout.end) + " bytes, got " +
                             std::to_string(bytes) + "; the file is cut short or damaged");
  }
  void* mapping = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file.get(), /*offset=*/0);
  if (mapping == MAP_FAILED) return CannotRead(path);
  std::shared_ptr<FrozenTable> table(
      new FrozenTable(static_cast<const std::byte*>(mapping), header));
  if (*table->StartOf(0) != 0 || *table->StartOf(header.buckets) != header.rows) {
    return Corrupt(path, "its index does not span its rows; the file is damaged");
  }
  return table;
}

FrozenTable::FrozenTable(const std::byte* mapping, const FrozenHeader& header)
    : header_(header),
      mapping_(mapping),
      bytes_(Layout(header).end),
      starts_(reinterpret_cast<const uint32_t*>(mapping + Layout::starts)),
      keys_(reinterpret_cast<const uint64_t*>(mapping + Layout(header).keys)),
      values_(mapping + Layout(header).values) {
  // Advice only, for file systems that have huge pages, such as tmpfs: it saves misses of the TLB.
  (void)madvise(const_cast<std::byte*>(mapping_), bytes_, MADV_HUGEPAGE);
}

FrozenTable::~FrozenTable() { munmap(const_cast<std::byte*>(mapping_), bytes_); }

}  // namespace embery
