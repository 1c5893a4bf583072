#include "transport/shared_areas.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "wire/frame.h"

namespace embery {
namespace {

constexpr size_t kAreaBytesMin = size_t{1} << 20;
constexpr size_t kAreaBytesMax = std::bit_ceil(size_t{kBodyBytesMax});

}  // namespace

Result<std::shared_ptr<SharedArea>> SharedArea::MapWith(Socket descriptor, size_t bytes,
                                                        int access) {
  // Touched now, for a page that is missing later could only be told by a signal.
  void* data =
      mmap(nullptr, bytes, access, MAP_SHARED | MAP_POPULATE, descriptor.fd(), /*offset=*/0);
  if (data == MAP_FAILED) {
    return Status::ResourceExhausted("shared memory of " + std::to_string(bytes) +
                                     " bytes cannot be mapped (" + ErrorText(errno) + ")");
  }
  return std::shared_ptr<SharedArea>(
      new SharedArea(std::move(descriptor), static_cast<std::byte*>(data), bytes));
}

Result<std::shared_ptr<SharedArea>> SharedArea::Create(size_t bytes) {
  Socket made(memfd_create("embery", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!made || fallocate(made.fd(), /*mode=*/0, /*offset=*/0, static_cast<off_t>(bytes)) != 0 ||
      fcntl(made.fd(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return Status::ResourceExhausted("no shared memory of " + std::to_string(bytes) + " bytes (" +
                                     ErrorText(errno) + ")");
  }
  return MapWith(std::move(made), bytes, PROT_READ | PROT_WRITE);
}

Result<std::shared_ptr<SharedArea>> SharedArea::Map(Socket descriptor) {
  const int seals = fcntl(descriptor.fd(), F_GET_SEALS);
  struct stat found;
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(descriptor.fd(), &found) != 0 ||
      found.st_size <= 0 || static_cast<size_t>(found.st_size) > kAreaBytesMax) {
    return Status::InvalidArgument("the other end shared no memory that is sealed at its size");
  }
  return MapWith(std::move(descriptor), static_cast<size_t>(found.st_size), PROT_READ);
}

SharedArea::~SharedArea() { munmap(data_, bytes_); }

std::byte* SharedAreas::Place(size_t bytes) {
  if (written_ == nullptr || written_->bytes() < bytes) {
    auto made = SharedArea::Create(std::max(kAreaBytesMin, std::bit_ceil(bytes)));
    if (!made.ok()) return nullptr;
    written_ = std::move(made).value();
    is_known_ = false;
  }
  return written_->data();
}

Body SharedAreas::Take(size_t offset, size_t bytes) {
  if (offset + bytes <= kInlineBytesMax) return Body();
  std::byte* data = Place(offset + bytes);
  return data == nullptr ? Body() : Body::Borrow(written_, {data + offset, bytes});
}

bool SharedAreas::Put(Pieces pieces) {
  size_t bytes = 0;
  for (const auto& piece : pieces) bytes += piece.size();
  // Pieces may lie in the area that is replaced.
  const std::shared_ptr<SharedArea> before = written_;
  std::byte* to = Place(bytes);
  if (to == nullptr) return false;
  for (const auto& piece : pieces) {
    if (piece.data() != to) std::copy(piece.begin(), piece.end(), to);
    to += piece.size();
  }
  return true;
}

int SharedAreas::NewDescriptor() {
  return std::exchange(is_known_, true) ? -1 : written_->descriptor();
}

Status SharedAreas::Receive(Socket descriptor) {
  auto mapped = SharedArea::Map(std::move(descriptor));
  if (!mapped.ok()) return mapped.status();
  read_ = std::move(mapped).value();
  return Status::Ok();
}

Result<Body> SharedAreas::Received(size_t bytes) const {
  if (read_ == nullptr || read_->bytes() < bytes) {
    return Status::InvalidArgument("malformed frame: its body of " + std::to_string(bytes) +
                                   " bytes does not lie in the shared memory");
  }
  return Body::Borrow(read_, {read_->data(), bytes});
}

}  // namespace embery
