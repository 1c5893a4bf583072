// Messages to start from, and the one check of all decoders that tests, seeded fuzzing and
// libFuzzer share.
//
// Thread-safety: pure functions; a failed check counts in testing::Failures().
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "base/testing.h"
#include "wire/frame.h"
#include "wire/messages.h"

namespace embery::testing {

using Bytes = std::vector<std::byte>;

inline void Append(Bytes& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

template <typename T>
void AppendValues(Bytes& to, const T* data, size_t count) {
  Append(to, std::as_bytes(std::span(data, count)));
}

inline constexpr uint64_t kSeedKeys[] = {5, UINT64_MAX, 6};

inline std::vector<Section> SeedSections(ValueType first, ValueType second) {
  return {{0x1122334455667788, 3, 2, first}, {99, 1, 1, second}};
}

// Value bytes of the sections: 1, 2, 3, ...
inline Bytes SeedValues(std::span<const Section> sections) {
  size_t size = 0;
  for (const Section& section : sections) size += section.value_bytes();
  Bytes values(size);
  for (size_t i = 0; i < size; ++i) values[i] = static_cast<std::byte>(i + 1);
  return values;
}

inline Bytes SeedPull(ReadMode mode, ValueType encoding) {
  Bytes body = EncodePullHead({7, 1000, mode}, SeedSections(encoding, ValueType::kFloat32));
  AppendValues(body, kSeedKeys, std::size(kSeedKeys));
  return body;
}

inline Bytes SeedPush(ValueType first, ValueType second) {
  const std::vector<Section> sections = SeedSections(first, second);
  Bytes body = EncodePushHead({7, 11, 12, 13, 1, 2, 1000}, sections);
  AppendValues(body, kSeedKeys, std::size(kSeedKeys));
  Append(body, SeedValues(sections));
  return body;
}

inline Bytes SeedReply(StatusCode code, const std::string& text, size_t row_bytes) {
  const uint8_t absent[] = {0, 1, 0};
  ReplyHead head;
  head.code = code;
  head.routing_version = 8;
  head.moved = 4;
  head.absent_count = 3;
  head.row_bytes = row_bytes;
  Bytes body = EncodeReplyHead(head, text, absent);
  body.resize(body.size() + row_bytes, std::byte{7});
  return body;
}

inline Bytes InFrame(FrameType type, const Bytes& body) {
  Bytes frame(kHeaderBytes);
  EncodeHeader({type, 0x0102030405060708, static_cast<uint32_t>(body.size())}, frame.data());
  Append(frame, body);
  return frame;
}

// Valid bodies of every kind, mode and encoding, alone and in frames.
inline std::vector<Bytes> SeedInputs() {
  std::vector<Bytes> seeds = {EncodeHello(9, std::string(kSecretBytesMin, 's')),
                              SeedReply(StatusCode::kOk, "", 28),
                              SeedReply(StatusCode::kUnavailable, "busy now, ask later", 0)};
  for (const ReadMode mode : {ReadMode::kTrain, ReadMode::kEval, ReadMode::kPeek}) {
    seeds.push_back(SeedPull(mode, ValueType::kInt8));
  }
  for (size_t type = 0; type < kValueTypes; ++type) {
    seeds.push_back(SeedPush(static_cast<ValueType>(type), ValueType::kFloat16));
  }
  const size_t bodies = seeds.size();
  for (size_t i = 0; i < bodies; ++i) seeds.push_back(InFrame(FrameType::kPush, seeds[i]));
  return seeds;
}

// Keys and gradients of decoded sections as they lay in the body, reading all of them.
template <typename Message>
void AppendArrays(const Message& message, Bytes& to) {
  for (const SectionView& view : message.sections) AppendValues(to, view.keys, view.count);
  for (const SectionView& view : message.sections) {
    if (view.grads != nullptr) AppendValues(to, view.grads, view.value_bytes());
  }
}

template <typename Message>
std::vector<Section> SectionsOf(const Message& message) {
  return {message.sections.begin(), message.sections.end()};
}

// Runs every decoder on a body: what one accepts lies within the body, and encodes to the same
// bytes again. Returns how many accepted it.
inline int CheckBodyDecoders(const Bytes& body) {
  int accepted = 0;
  if (const auto pull = DecodePull(body); pull.ok()) {
    Bytes again = EncodePullHead(pull.value().head, SectionsOf(pull.value()));
    AppendArrays(pull.value(), again);
    CHECK_TRUE(again == body);
    ++accepted;
  }
  if (const auto push = DecodePush(body); push.ok()) {
    Bytes again = EncodePushHead(push.value().head, SectionsOf(push.value()));
    AppendArrays(push.value(), again);
    CHECK_TRUE(again == body);
    ++accepted;
  }
  if (const auto reply = DecodeReply(body); reply.ok()) {
    const ReplyMessage& message = reply.value();
    Bytes again = EncodeReplyHead(message.head, message.text, message.absent);
    CHECK_EQ(CarriesRows(body), message.head.code == StatusCode::kOk && message.head.moved == 0 &&
                                    message.text.empty() && !message.rows.empty());
    Append(again, message.rows);
    CHECK_TRUE(again == body);
    ++accepted;
  }
  if (const auto secret = DecodeHello(body); secret.ok()) {
    uint64_t client = 0;
    std::memcpy(&client, body.data(), sizeof(client));
    CHECK_TRUE(EncodeHello(client, secret.value()) == body);
    ++accepted;
  }
  return accepted;
}

// The same for bytes that may be a frame or a body. The memory is of exactly its size, so that
// AddressSanitizer sees a read beyond it.
inline int CheckDecoders(std::span<const std::byte> input) {
  int accepted = CheckBodyDecoders({input.begin(), input.end()});
  const Bytes copy(input.begin(), input.end());
  if (const auto frame = DecodeFrame(copy); frame.ok()) {
    const auto& [header, body] = frame.value();
    CHECK_EQ(header.body_bytes, body.size());
    Bytes again(kHeaderBytes);
    EncodeHeader(header, again.data());
    Append(again, body);
    CHECK_TRUE(again == copy);
    accepted += 1 + CheckBodyDecoders({body.begin(), body.end()});
  }
  return accepted;
}

}  // namespace embery::testing
