#include "wire/frame.h"

#include <cstring>
#include <string>

#include "base/hash.h"

namespace embery {
namespace {

struct RawHeader {
  uint32_t magic;
  uint16_t version;
  uint16_t type;
  uint64_t request;
  uint32_t body_bytes;
  uint32_t checksum;
};
static_assert(sizeof(RawHeader) == kHeaderBytes);

uint32_t Checksum(const RawHeader& raw) {
  uint64_t words[3];
  std::memcpy(words, &raw, sizeof(words));
  words[2] &= UINT32_MAX;  // Without the checksum itself.
  const uint64_t mixed = Fmix64(words[2] ^ Fmix64(words[1] ^ Fmix64(words[0])));
  return static_cast<uint32_t>(mixed >> 32);
}

Status Malformed(const std::string& what) {
  return Status::InvalidArgument("malformed frame: " + what);
}

}  // namespace

void EncodeHeader(const FrameHeader& header, std::byte* out) {
  RawHeader raw{kFrameMagic,    kFrameVersion,     static_cast<uint16_t>(header.type),
                header.request, header.body_bytes, 0};
  raw.checksum = Checksum(raw);
  std::memcpy(out, &raw, sizeof(raw));
}

Result<FrameHeader> DecodeHeader(std::span<const std::byte, kHeaderBytes> data,
                                 uint32_t body_bytes_max) {
  RawHeader raw;
  std::memcpy(&raw, data.data(), sizeof(raw));
  if (raw.magic != kFrameMagic) return Malformed("it does not begin with EMBY");
  if (raw.version != kFrameVersion) {
    return Malformed("its version is " + std::to_string(raw.version) + ", expected " +
                     std::to_string(kFrameVersion) + "; run the same release on both ends");
  }
  if (raw.checksum != Checksum(raw)) return Malformed("its header's checksum is wrong");
  if (raw.type < static_cast<uint16_t>(FrameType::kHello) ||
      raw.type > static_cast<uint16_t>(FrameType::kCopy)) {
    return Malformed("its type is " + std::to_string(raw.type));
  }
  if (raw.body_bytes > body_bytes_max) {
    return Malformed("its body has " + std::to_string(raw.body_bytes) + " bytes, more than the " +
                     std::to_string(body_bytes_max) + " allowed here");
  }
  return FrameHeader{static_cast<FrameType>(raw.type), raw.request, raw.body_bytes};
}

Result<FrameView> DecodeFrame(std::span<const std::byte> frame) {
  if (frame.size() < kHeaderBytes) {
    return Malformed("it has " + std::to_string(frame.size()) + " bytes, less than a header");
  }
  const Result<FrameHeader> header = DecodeHeader(frame.first<kHeaderBytes>());
  if (!header.ok()) return header.status();
  const std::span<const std::byte> body = frame.subspan(kHeaderBytes);
  if (body.size() != header.value().body_bytes) {
    return Malformed("its body has " + std::to_string(body.size()) + " bytes, its header says " +
                     std::to_string(header.value().body_bytes));
  }
  return FrameView{header.value(), body};
}

}  // namespace embery
