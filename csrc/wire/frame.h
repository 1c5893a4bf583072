// The frame: a header of 24 bytes, then a body. All numbers are little-endian.
//
//   0  uint32  magic "EMBY"
//   4  uint16  version of the format
//   6  uint16  type
//   8  uint64  request id; a reply repeats that of its request
//  16  uint32  bytes of the body
//  20  uint32  checksum of the 20 bytes before it
//
// The checksum covers the header only: what a damaged length would do to a stream cannot be undone,
// and bodies are checked by the transport that carries them.
//
// Thread-safety: pure functions and values.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"

namespace embery {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian");

enum class FrameType : uint16_t { kHello = 1, kPull = 2, kPush = 3, kReply = 4, kCopy = 5 };

struct FrameHeader {
  FrameType type;
  uint64_t request;
  uint32_t body_bytes;
};

inline constexpr size_t kHeaderBytes = 24;
inline constexpr uint32_t kFrameMagic = 0x59424d45;
inline constexpr uint16_t kFrameVersion = 2;
inline constexpr uint32_t kBodyBytesMax = uint32_t{1} << 30;

void EncodeHeader(const FrameHeader& header, std::byte* out);

// Refuses another magic, version, type or checksum, and bodies above `body_bytes_max`.
Result<FrameHeader> DecodeHeader(std::span<const std::byte, kHeaderBytes> data,
                                 uint32_t body_bytes_max = kBodyBytesMax);

// Parts of a body begin at multiples of 8.
constexpr uint64_t RoundUp8(uint64_t bytes) { return (bytes + 7) / 8 * 8; }

// A whole frame in one piece.
struct FrameView {
  FrameHeader header;
  std::span<const std::byte> body;
};
Result<FrameView> DecodeFrame(std::span<const std::byte> frame);

}  // namespace embery
