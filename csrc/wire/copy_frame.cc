#include "wire/copy_frame.h"

#include <algorithm>
#include <string>
#include <utility>

#include "wire/frame.h"

namespace embery {
namespace {

struct RawItem {
  uint32_t kind;
  uint32_t group;
  uint64_t salt;
  uint64_t bytes;
};
static_assert(sizeof(CopyHead) == 24 && sizeof(RawItem) == 24);

}  // namespace

Status MalformedCopy(const std::string& what) {
  return Status::InvalidArgument("malformed copy: " + what);
}

CopyFrameWriter::CopyFrameWriter(const CopyHead& head) : bytes_(sizeof(head)) {
  std::memcpy(bytes_.data(), &head, sizeof(head));
}

void CopyFrameWriter::Add(const CopyItem& item) {
  const RawItem raw{static_cast<uint32_t>(item.kind), item.group, item.salt, item.bytes.size()};
  const size_t at = bytes_.size();
  bytes_.resize(at + sizeof(raw) + RoundUp8(item.bytes.size()));
  std::memcpy(bytes_.data() + at, &raw, sizeof(raw));
  if (!item.bytes.empty()) {
    std::memcpy(bytes_.data() + at + sizeof(raw), item.bytes.data(), item.bytes.size());
  }
  ++items_;
}

std::vector<std::byte> CopyFrameWriter::Take() {
  std::memcpy(bytes_.data() + offsetof(CopyHead, items), &items_, sizeof(items_));
  return std::move(bytes_);
}

Result<CopyFrame> DecodeCopyFrame(std::span<const std::byte> body) {
  CopyFrame frame{};
  if (body.size() < sizeof(frame.head)) return MalformedCopy("it ends within its head");
  std::memcpy(&frame.head, body.data(), sizeof(frame.head));
  std::span<const std::byte> rest = body.subspan(sizeof(frame.head));
  for (uint32_t i = 0; i < frame.head.items; ++i) {
    RawItem raw;
    if (rest.size() < sizeof(raw)) return MalformedCopy("it ends within the head of an item");
    std::memcpy(&raw, rest.data(), sizeof(raw));
    rest = rest.subspan(sizeof(raw));
    if (raw.kind < static_cast<uint32_t>(CopyKind::kBegin) ||
        raw.kind > static_cast<uint32_t>(CopyKind::kStep)) {
      return MalformedCopy("an item's kind is " + std::to_string(raw.kind));
    }
    if (raw.bytes > rest.size() || RoundUp8(raw.bytes) > rest.size()) {
      return MalformedCopy("it ends within an item");
    }
    frame.items.push_back(
        {static_cast<CopyKind>(raw.kind), raw.group, raw.salt, rest.first(raw.bytes)});
    rest = rest.subspan(RoundUp8(raw.bytes));
  }
  if (!rest.empty()) return MalformedCopy(std::to_string(rest.size()) + " bytes follow its end");
  return frame;
}

}  // namespace embery
