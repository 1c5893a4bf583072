#include "wire/messages.h"

#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

namespace embery {
namespace {

struct RawPull {
  uint64_t routing_version;
  uint32_t now_s;
  uint32_t mode;
  uint32_t sections;
  uint32_t reserved;
};
struct RawPush {
  uint64_t routing_version;
  uint64_t client;
  uint64_t sequence;
  uint64_t round;
  uint32_t rank;
  uint32_t world;
  uint32_t now_s;
  uint32_t sections;
};
struct RawReply {
  uint32_t status;
  uint32_t text_bytes;
  uint64_t routing_version;
  uint32_t moved;
  uint32_t absent_count;
  uint64_t float_count;
};
static_assert(sizeof(RawPull) == 24 && sizeof(RawPush) == 48 && sizeof(RawReply) == 32);
static_assert(ReplyRowsOffset(0) == sizeof(RawReply));

constexpr uint64_t RoundUp8(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

Status Malformed(const std::string& what) {
  return Status::InvalidArgument("malformed message: " + what);
}

// Appends raw values to a vector that grows once.
class Writer {
 public:
  explicit Writer(size_t bytes) { out_.reserve(bytes); }
  void Put(const void* data, size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    out_.insert(out_.end(), first, first + bytes);
  }
  void Pad() { out_.resize(RoundUp8(out_.size())); }
  std::vector<std::byte> Take() { return std::move(out_); }

 private:
  std::vector<std::byte> out_;
};

// Hands out pieces of a body from its front.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> body) : rest_(body) {}

  template <typename Raw>
  Status Read(Raw& raw) {
    static_assert(std::is_trivially_copyable_v<Raw>);
    if (rest_.size() < sizeof(Raw)) return Malformed("it ends within its head");
    std::memcpy(&raw, rest_.data(), sizeof(Raw));
    rest_ = rest_.subspan(sizeof(Raw));
    return Status::Ok();
  }

  // `count` elements where they lie.
  template <typename T>
  Status View(uint64_t count, const T*& data) {
    if (count > rest_.size() / sizeof(T)) {
      return Malformed("it ends " + std::to_string(count - rest_.size() / sizeof(T)) +
                       " elements too early");
    }
    data = reinterpret_cast<const T*>(rest_.data());
    rest_ = rest_.subspan(count * sizeof(T));
    return Status::Ok();
  }

  Status End() const {
    if (rest_.empty()) return Status::Ok();
    return Malformed(std::to_string(rest_.size()) + " bytes follow its end");
  }

 private:
  std::span<const std::byte> rest_;
};

enum class WithGradients : uint8_t { kWithout, kWith };

Status ReadSections(Reader& reader, uint32_t section_count, WithGradients gradients,
                    std::vector<SectionView>& views) {
  if (section_count > kSectionsMax) {
    return Malformed("it has " + std::to_string(section_count) + " sections, at most " +
                     std::to_string(kSectionsMax) + " are allowed");
  }
  const Section* sections = nullptr;
  EMBERY_RETURN_IF_ERROR(reader.View(section_count, sections));
  views.reserve(section_count);
  for (uint32_t i = 0; i < section_count; ++i) {
    const Section& section = sections[i];
    if (section.dim == 0 || section.dim > kWireDimMax) {
      return Malformed("a section has rows of " + std::to_string(section.dim) + " columns");
    }
    views.push_back({section.salt, section.dim, section.count, nullptr, nullptr});
  }
  for (SectionView& view : views) EMBERY_RETURN_IF_ERROR(reader.View(view.count, view.keys));
  if (gradients == WithGradients::kWith) {
    for (SectionView& view : views) {
      EMBERY_RETURN_IF_ERROR(reader.View(uint64_t{view.count} * view.dim, view.grads));
    }
  }
  return reader.End();
}

Status RequireAligned(std::span<const std::byte> body) {
  if (reinterpret_cast<uintptr_t>(body.data()) % 8 == 0) return Status::Ok();
  return Status::Internal("the body of a frame must be aligned to 8 bytes");
}

}  // namespace

std::vector<std::byte> EncodePullHead(const PullHead& head, std::span<const Section> sections) {
  Writer writer(sizeof(RawPull) + sections.size_bytes());
  const RawPull raw{head.routing_version, head.now_s, static_cast<uint32_t>(head.mode),
                    static_cast<uint32_t>(sections.size()), 0};
  writer.Put(&raw, sizeof(raw));
  writer.Put(sections.data(), sections.size_bytes());
  return writer.Take();
}

std::vector<std::byte> EncodePushHead(const PushHead& head, std::span<const Section> sections) {
  Writer writer(sizeof(RawPush) + sections.size_bytes());
  const RawPush raw{head.routing_version,
                    head.client,
                    head.sequence,
                    head.round,
                    head.rank,
                    head.world,
                    head.now_s,
                    static_cast<uint32_t>(sections.size())};
  writer.Put(&raw, sizeof(raw));
  writer.Put(sections.data(), sections.size_bytes());
  return writer.Take();
}

std::vector<std::byte> EncodeHello(uint64_t client, std::string_view secret) {
  Writer writer(sizeof(client) + secret.size());
  writer.Put(&client, sizeof(client));
  writer.Put(secret.data(), secret.size());
  return writer.Take();
}

std::vector<std::byte> EncodeReplyHead(const ReplyHead& head, std::string_view text,
                                       std::span<const uint8_t> absent) {
  Writer writer(sizeof(RawReply) + RoundUp8(text.size()) + RoundUp8(absent.size()));
  const RawReply raw{static_cast<uint32_t>(head.code),
                     static_cast<uint32_t>(text.size()),
                     head.routing_version,
                     head.moved,
                     head.absent_count,
                     head.float_count};
  writer.Put(&raw, sizeof(raw));
  writer.Put(text.data(), text.size());
  writer.Pad();
  writer.Put(absent.data(), absent.size());
  writer.Pad();
  return writer.Take();
}

Result<PullMessage> DecodePull(std::span<const std::byte> body) {
  EMBERY_RETURN_IF_ERROR(RequireAligned(body));
  Reader reader(body);
  RawPull raw;
  EMBERY_RETURN_IF_ERROR(reader.Read(raw));
  if (raw.mode > static_cast<uint32_t>(ReadMode::kPeek)) {
    return Malformed("its mode is " + std::to_string(raw.mode));
  }
  PullMessage message{{raw.routing_version, raw.now_s, static_cast<ReadMode>(raw.mode)}, {}};
  EMBERY_RETURN_IF_ERROR(
      ReadSections(reader, raw.sections, WithGradients::kWithout, message.sections));
  return message;
}

Result<PushMessage> DecodePush(std::span<const std::byte> body) {
  EMBERY_RETURN_IF_ERROR(RequireAligned(body));
  Reader reader(body);
  RawPush raw;
  EMBERY_RETURN_IF_ERROR(reader.Read(raw));
  if (raw.world == 0 || raw.world > kWorldMax || raw.rank >= raw.world) {
    return Malformed("it is of rank " + std::to_string(raw.rank) + " in a group of " +
                     std::to_string(raw.world));
  }
  PushMessage message{
      {raw.routing_version, raw.client, raw.sequence, raw.round, raw.rank, raw.world, raw.now_s},
      {}};
  EMBERY_RETURN_IF_ERROR(
      ReadSections(reader, raw.sections, WithGradients::kWith, message.sections));
  return message;
}

Result<std::string_view> DecodeHello(std::span<const std::byte> body) {
  Reader reader(body);
  uint64_t client = 0;
  EMBERY_RETURN_IF_ERROR(reader.Read(client));
  const size_t bytes = body.size() - sizeof(client);
  if (bytes < kSecretBytesMin || bytes > kSecretBytesMax) {
    return Malformed("a secret has " + std::to_string(kSecretBytesMin) + " to " +
                     std::to_string(kSecretBytesMax) + " bytes, not " + std::to_string(bytes));
  }
  return std::string_view(reinterpret_cast<const char*>(body.data()) + sizeof(client), bytes);
}

Result<ReplyMessage> DecodeReply(std::span<const std::byte> body) {
  EMBERY_RETURN_IF_ERROR(RequireAligned(body));
  Reader reader(body);
  RawReply raw;
  EMBERY_RETURN_IF_ERROR(reader.Read(raw));
  if (raw.status > static_cast<uint32_t>(StatusCode::kInternal)) {
    return Malformed("its status is " + std::to_string(raw.status));
  }
  ReplyMessage message{};
  message.head = {static_cast<StatusCode>(raw.status), raw.routing_version, raw.moved,
                  raw.absent_count, raw.float_count};
  const char* text = nullptr;
  EMBERY_RETURN_IF_ERROR(reader.View(RoundUp8(raw.text_bytes), text));
  message.text = {text, raw.text_bytes};
  const uint8_t* absent = nullptr;
  EMBERY_RETURN_IF_ERROR(reader.View(RoundUp8(raw.absent_count), absent));
  message.absent = {absent, raw.absent_count};
  EMBERY_RETURN_IF_ERROR(reader.View(raw.float_count, message.rows));
  EMBERY_RETURN_IF_ERROR(reader.End());
  return message;
}

bool CarriesRows(std::span<const std::byte> front) {
  RawReply raw;
  if (front.size() < sizeof(raw)) return false;
  std::memcpy(&raw, front.data(), sizeof(raw));
  return raw.status == static_cast<uint32_t>(StatusCode::kOk) && raw.moved == 0 &&
         raw.text_bytes == 0 && raw.float_count > 0;
}

}  // namespace embery
