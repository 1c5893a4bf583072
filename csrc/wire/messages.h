// What the bodies of frames say, and how they are laid out. All parts begin at multiples of 8.
//
//   Hello  uint64 client; the secret
//   Pull   uint64 routing version; uint32 now_s; uint32 mode; uint32 sections; uint32 0
//          sections: {uint64 salt; uint32 dim; uint32 keys; uint8 encoding; 7 bytes of zero}; the
//          keys of all sections, uint64
//   Push   uint64 routing version, client, sequence, round; uint32 rank, world, now_s, sections
//          sections and keys as above; the gradients of all sections
//   Reply  uint32 status; uint32 bytes of the message; uint64 routing version of the server;
//          uint32 slots moved; uint32 absent flags; uint64 bytes of rows; the message; the flags,
//          uint8 a key; the rows of all sections
//
// An encoding is the number of a ValueType. Gradients are of their section's, and so are the rows
// that answer it: ValueBytes(encoding, dim) bytes a key, in the layout of row_codec.h.
//
// Decoding checks every length before anything is allocated, and that nothing is left over.
//
// Thread-safety: pure functions and values. Ownership: a decoded message borrows the body, which
// must be aligned to 8 bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "optim/spec.h"
#include "wire/frame.h"

namespace embery {

enum class ReadMode : uint32_t { kTrain, kEval, kPeek };

inline constexpr uint32_t kSectionsMax = 4096;
inline constexpr uint32_t kWireDimMax = 1u << 16;
inline constexpr uint32_t kWorldMax = 1u << 16;
inline constexpr size_t kSecretBytesMin = 16;
inline constexpr size_t kSecretBytesMax = 64;
inline constexpr uint32_t kHelloBytesMax = 8 + kSecretBytesMax;

// One table's part of a request.
struct Section {
  uint64_t salt;
  uint32_t dim;
  uint32_t count;
  ValueType encoding = ValueType::kFloat32;
  std::array<uint8_t, 7> reserved{};

  uint64_t value_bytes() const { return count * uint64_t{ValueBytes(encoding, dim)}; }
  uint64_t float_count() const { return uint64_t{count} * dim; }
};
static_assert(sizeof(Section) == 24);

struct SectionView : Section {
  const uint64_t* keys = nullptr;
  const std::byte* grads = nullptr;  // Null in a Pull.
};

inline uint64_t TotalKeys(std::span<const SectionView> sections) {
  uint64_t total = 0;
  for (const SectionView& section : sections) total += section.count;
  return total;
}

struct PullHead {
  uint64_t routing_version;
  uint32_t now_s;
  ReadMode mode;
};

struct PushHead {
  uint64_t routing_version;
  uint64_t client;
  uint64_t sequence;
  uint64_t round;
  uint32_t rank;
  uint32_t world;
  uint32_t now_s;

  // Of the lease, where the client is one: its pushes have it in the upper half of `round`.
  uint64_t token() const { return round >> 32; }
};

struct PullMessage {
  PullHead head;
  std::vector<SectionView> sections;
};

struct PushMessage {
  PushHead head;
  std::vector<SectionView> sections;
};

struct ReplyHead {
  StatusCode code = StatusCode::kOk;
  uint64_t routing_version = 0;
  uint32_t moved = 0;  // Keys whose slots the server refused; then nothing was done.
  uint32_t absent_count = 0;
  uint64_t row_bytes = 0;
};

struct ReplyMessage {
  ReplyHead head;
  std::string_view text;
  std::span<const uint8_t> absent;
  std::span<const std::byte> rows;
};

// What comes before the keys; the caller sends keys and gradients from where they are.
std::vector<std::byte> EncodePullHead(const PullHead& head, std::span<const Section> sections);
std::vector<std::byte> EncodePushHead(const PushHead& head, std::span<const Section> sections);
std::vector<std::byte> EncodeHello(uint64_t client, std::string_view secret);
// What comes before the rows; head.absent_count must be that of `absent`.
std::vector<std::byte> EncodeReplyHead(const ReplyHead& head, std::string_view text,
                                       std::span<const uint8_t> absent);

Result<PullMessage> DecodePull(std::span<const std::byte> body);
Result<PushMessage> DecodePush(std::span<const std::byte> body);
// The secret that a client shows.
Result<std::string_view> DecodeHello(std::span<const std::byte> body);
Result<ReplyMessage> DecodeReply(std::span<const std::byte> body);

// Whether a reply, of which the front is here, carries rows: no error, nothing refused.
bool CarriesRows(std::span<const std::byte> front);

// Bytes before the rows of a reply without text.
constexpr size_t ReplyRowsOffset(size_t absent_count) { return 32 + RoundUp8(absent_count); }

}  // namespace embery
