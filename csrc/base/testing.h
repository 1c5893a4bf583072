// A small test runner: TEST(Name) { ... } registers a case; EMBERY_TEST_MAIN() runs all, or those
// whose name contains the first argument. CHECK macros print both sides and count a failure;
// REQUIRE also leaves the case. Written here because no C++ test framework installs from PyPI.
//
// Thread-safety: CHECK may be used from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace embery::testing {

struct TestCase {
  const char* name;
  void (*body)();
};

inline std::vector<TestCase>& Cases() {
  static std::vector<TestCase> cases;
  return cases;
}

inline std::atomic<int>& Failures() {
  static std::atomic<int> failures{0};
  return failures;
}

struct Registration {
  Registration(const char* name, void (*body)()) { Cases().push_back({name, body}); }
};

inline void Fail(const char* file, int line, const std::string& what) {
  Failures().fetch_add(1);
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

template <typename A, typename B>
bool CheckEqual(const A& a, const B& b, const char* text, const char* file, int line) {
  if (a == b) return true;
  std::ostringstream out;
  out << "expected equal: " << text << ", got " << a << " and " << b;
  Fail(file, line, out.str());
  return false;
}

inline uint64_t NumberFromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// How much a randomised test does: EMBERY_TEST_OPERATIONS, else `long_count` where EMBERY_TEST_LONG
// is 1, else `short_count`.
inline uint64_t OperationsOfTest(uint64_t short_count, uint64_t long_count) {
  const bool is_long = NumberFromEnvironment("EMBERY_TEST_LONG", 0) == 1;
  return NumberFromEnvironment("EMBERY_TEST_OPERATIONS", is_long ? long_count : short_count);
}

inline int RunAll(int argc, char** argv) {
  const char* filter = argc > 1 ? argv[1] : "";
  int ran = 0;
  int failed = 0;
  for (const TestCase& test : Cases()) {
    if (std::strstr(test.name, filter) == nullptr) continue;
    const int before = Failures().load();
    test.body();
    const bool ok = Failures().load() == before;
    std::printf("%s %s\n", ok ? "ok  " : "FAIL", test.name);
    std::fflush(stdout);
    ++ran;
    failed += ok ? 0 : 1;
  }
  std::printf("%d passed, %d failed\n", ran - failed, failed);
  return failed == 0 && ran > 0 ? 0 : 1;
}

}  // namespace embery::testing

#define TEST(name)                                                                     \
  static void Test##name();                                                            \
  static const ::embery::testing::Registration registration_##name(#name, Test##name); \
  static void Test##name()

#define CHECK_TRUE(condition)                                                  \
  do {                                                                         \
    if (!(condition)) ::embery::testing::Fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_EQ(a, b) \
  ((void)::embery::testing::CheckEqual((a), (b), #a " == " #b, __FILE__, __LINE__))

#define REQUIRE_TRUE(condition)                                \
  do {                                                         \
    if (!(condition)) {                                        \
      ::embery::testing::Fail(__FILE__, __LINE__, #condition); \
      return;                                                  \
    }                                                          \
  } while (false)

#define EMBERY_TEST_MAIN() \
  int main(int argc, char** argv) { return ::embery::testing::RunAll(argc, argv); }
