// libFuzzer on all decoders of the wire; built by -DEMBERY_FUZZ=ON with clang.
//
//   EMBERY_FUZZ_SEEDS=corpus wire_fuzz corpus    writes valid messages into the folder first
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "wire/wire_testing.h"

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  const char* folder = std::getenv("EMBERY_FUZZ_SEEDS");
  if (folder == nullptr) return 0;
  std::filesystem::create_directories(folder);
  int number = 0;
  for (const auto& seed : embery::testing::SeedInputs()) {
    const auto path = std::filesystem::path(folder) / ("seed-" + std::to_string(number++));
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(seed.data()),
               static_cast<std::streamsize>(seed.size()));
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  embery::testing::CheckDecoders(std::as_bytes(std::span(data, size)));
  // The line that failed was printed; libFuzzer keeps the input.
  if (embery::testing::Failures().load() != 0) __builtin_trap();
  return 0;
}
