#include "wire/messages.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#include "wire/frame.h"

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
  uint64_t row_bytes;
};
static_assert(sizeof(RawPull) == 24 && sizeof(RawPush) == 48 && sizeof(RawReply) == 32);
static_assert(ReplyRowsOffset(0) == sizeof(RawReply));

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

  // `count` bytes, and zeros up to a multiple of 8.
  template <typename T>
  Status ViewPadded(uint64_t count, const T*& data) {
    static_assert(sizeof(T) == 1);
    EMBERY_RETURN_IF_ERROR(View(RoundUp8(count), data));
    if (std::any_of(data + count, data + RoundUp8(count), [](T pad) { return pad != T{}; })) {
      return Malformed("its padding is not zero");
    }
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

Status CheckSection(const Section& section) {
  if (section.dim == 0 || section.dim > kWireDimMax) {
    return Malformed("a section has rows of " + std::to_string(section.dim) + " columns");
  }
  if (static_cast<size_t>(section.encoding) >= kValueTypes) {
    return Malformed("a section's encoding is " +
                     std::to_string(static_cast<unsigned>(section.encoding)));
  }
  if (section.reserved != std::array<uint8_t, 7>{}) {
    return Malformed("a section's last bytes are not zero");
  }
  return Status::Ok();
}

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
    EMBERY_RETURN_IF_ERROR(CheckSection(section));
    views.push_back({section});
  }
  for (SectionView& view : views) EMBERY_RETURN_IF_ERROR(reader.View(view.count, view.keys));
  if (gradients == WithGradients::kWith) {
    uint64_t float_count = 0;
    for (SectionView& view : views) {
      EMBERY_RETURN_IF_ERROR(reader.View(view.value_bytes(), view.grads));
      float_count += view.float_count();
    }
    // What a narrow encoding unfolds to is limited as if it had come unfolded.
    if (float_count > kBodyBytesMax / sizeof(float)) {
      return Malformed("it has " + std::to_string(float_count) + " gradient values, at most " +
                       std::to_string(kBodyBytesMax / sizeof(float)) + " are allowed");
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
                     head.row_bytes};
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
  if (raw.reserved != 0) return Malformed("the end of its head is not zero");
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
                  raw.absent_count, raw.row_bytes};
  const char* text = nullptr;
  EMBERY_RETURN_IF_ERROR(reader.ViewPadded(raw.text_bytes, text));
  message.text = {text, raw.text_bytes};
  const uint8_t* absent = nullptr;
  EMBERY_RETURN_IF_ERROR(reader.ViewPadded(raw.absent_count, absent));
  message.absent = {absent, raw.absent_count};
  const std::byte* rows = nullptr;
  EMBERY_RETURN_IF_ERROR(reader.View(raw.row_bytes, rows));
  message.rows = {rows, raw.row_bytes};
  EMBERY_RETURN_IF_ERROR(reader.End());
  return message;
}

bool CarriesRows(std::span<const std::byte> front) {
  RawReply raw;
  if (front.size() < sizeof(raw)) return false;
  std::memcpy(&raw, front.data(), sizeof(raw));
  return raw.status == static_cast<uint32_t>(StatusCode::kOk) && raw.moved == 0 &&
         raw.text_bytes == 0 && raw.row_bytes > 0;
}

}  // namespace embery
