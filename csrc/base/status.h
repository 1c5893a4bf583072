// Outcome of an operation: OK, or a code and a message that says what, where, expected, got, do.
//
// Thread-safety: value types. Ownership: a Status owns its message. Invariant: an OK status has no
// message. The names of the codes are the keys of `FROM_STATUS` in embery/errors.py.
#pragma once

#include <cassert>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

namespace embery {

enum class StatusCode : uint8_t {
  kOk,
  kInvalidArgument,
  kSchemaMismatch,
  kTableNotFound,
  kUnavailable,
  kDeadlineExceeded,
  kUnauthenticated,
  kCheckpointCorrupt,
  kResourceExhausted,
  kInternal,
};

inline constexpr StatusCode kAllErrorCodes[] = {
    StatusCode::kInvalidArgument,   StatusCode::kSchemaMismatch,    StatusCode::kTableNotFound,
    StatusCode::kUnavailable,       StatusCode::kDeadlineExceeded,  StatusCode::kUnauthenticated,
    StatusCode::kCheckpointCorrupt, StatusCode::kResourceExhausted, StatusCode::kInternal,
};

constexpr const char* StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kInvalidArgument:
      return "INVALID_ARGUMENT";
    case StatusCode::kSchemaMismatch:
      return "SCHEMA_MISMATCH";
    case StatusCode::kTableNotFound:
      return "TABLE_NOT_FOUND";
    case StatusCode::kUnavailable:
      return "UNAVAILABLE";
    case StatusCode::kDeadlineExceeded:
      return "DEADLINE_EXCEEDED";
    case StatusCode::kUnauthenticated:
      return "UNAUTHENTICATED";
    case StatusCode::kCheckpointCorrupt:
      return "CHECKPOINT_CORRUPT";
    case StatusCode::kResourceExhausted:
      return "RESOURCE_EXHAUSTED";
    case StatusCode::kInternal:
      return "INTERNAL";
  }
  return "INTERNAL";
}

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status Ok() { return {}; }
  static Status InvalidArgument(std::string message) {
    return {StatusCode::kInvalidArgument, std::move(message)};
  }
  static Status ResourceExhausted(std::string message) {
    return {StatusCode::kResourceExhausted, std::move(message)};
  }
  static Status Unavailable(std::string message) {
    return {StatusCode::kUnavailable, std::move(message)};
  }
  static Status Internal(std::string message) {
    return {StatusCode::kInternal, std::move(message)};
  }

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// A value or the error that stood in its way.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}        // NOLINT(google-explicit-constructor)
  Result(Status status) : state_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    assert(!std::get<Status>(state_).ok());
  }

  bool ok() const { return std::holds_alternative<T>(state_); }
  Status status() const { return ok() ? Status::Ok() : std::get<Status>(state_); }
  T& value() & { return std::get<T>(state_); }
  const T& value() const& { return std::get<T>(state_); }
  T&& value() && { return std::get<T>(std::move(state_)); }

 private:
  std::variant<T, Status> state_;
};

}  // namespace embery

#define EMBERY_RETURN_IF_ERROR(expression)           \
  do {                                               \
    ::embery::Status embery_status_ = (expression);  \
    if (!embery_status_.ok()) return embery_status_; \
  } while (false)
