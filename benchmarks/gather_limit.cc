// The limit that pulls are measured against: a gather of random rows through a perfect index.
//
// There is no hash table, no lock and no metadata here: an array as large as the store's index
// gives each key's row, and the rows lie 64-byte aligned in one flat array in random order. What is
// left is what the memory of the machine allows.
//
//   gather_limit ROWS DIM THREADS STEPS PAGES BATCH_KEYS KEYS
//
// PAGES is `huge` or `small`: whether the arrays ask for huge pages. KEYS is a file of native
// uint64, one batch of BATCH_KEYS after the other. Each step gathers the next batch into the same
// buffer. Prints one JSON line: the rate of the median step, and of the fastest.
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <barrier>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t kWarmSteps = 5;
constexpr size_t kHandlesAhead = 32;
constexpr size_t kRowsAhead = 16;
constexpr size_t kLineBytes = 64;

[[noreturn]] void Fail(const std::string& message) {
  std::fprintf(stderr, "gather_limit: %s\n", message.c_str());
  std::exit(2);
}

enum class Pages { kHuge, kSmall };

struct Options {
  size_t rows = 0;
  size_t dim = 0;
  size_t threads = 0;
  size_t steps = 0;
  Pages pages = Pages::kHuge;
  size_t batch_keys = 0;
  std::string keys_path;
};

size_t ParseCount(const char* name, const std::string& text) {
  size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value == 0) {
    Fail(std::string(name) + " must be a positive integer, got '" + text + "'");
  }
  return value;
}

Pages ParsePages(const std::string& text) {
  if (text == "huge") return Pages::kHuge;
  if (text == "small") return Pages::kSmall;
  Fail("PAGES must be 'huge' or 'small', got '" + text + "'");
}

Options ParseOptions(std::span<char*> args) {
  if (args.size() != 8) Fail("usage: gather_limit ROWS DIM THREADS STEPS PAGES BATCH_KEYS KEYS");
  return {
      .rows = ParseCount("ROWS", args[1]),
      .dim = ParseCount("DIM", args[2]),
      .threads = ParseCount("THREADS", args[3]),
      .steps = ParseCount("STEPS", args[4]),
      .pages = ParsePages(args[5]),
      .batch_keys = ParseCount("BATCH_KEYS", args[6]),
      .keys_path = args[7],
  };
}

// An array of zeros that lives as long as the process.
template <typename T>
std::span<T> MapArray(size_t count, Pages pages) {
  void* memory =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) Fail("no memory for " + std::to_string(count * sizeof(T)) + " bytes");
  const int advice = pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
  // Advice only: a kernel that declines changes the speed, not the result.
  (void)madvise(memory, count * sizeof(T), advice);
  return {static_cast<T*>(memory), count};
}

std::vector<uint64_t> ReadKeys(const Options& options) {
  std::ifstream file(options.keys_path, std::ios::binary | std::ios::ate);
  if (!file) Fail("cannot open " + options.keys_path);
  const auto bytes = static_cast<size_t>(file.tellg());
  std::vector<uint64_t> keys(bytes / sizeof(uint64_t));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(keys.data()), static_cast<std::streamsize>(bytes));
  if (!file || keys.size() < options.batch_keys) Fail(options.keys_path + ": less than one batch");
  if (*std::max_element(keys.begin(), keys.end()) >= options.rows) {
    Fail(options.keys_path + ": a key is beyond ROWS = " + std::to_string(options.rows));
  }
  return keys;
}

// Like the store's index, 9.6 bytes a row: eight for a tag and a handle, loaded to five sixths.
struct IndexEntry {
  uint32_t tag;
  uint32_t row;
};

struct Table {
  static size_t EntryOf(uint64_t key) { return key + key / 5; }

  std::span<IndexEntry> index;
  std::span<float> values;
};

Table MakeTable(const Options& options) {
  const size_t rows = options.rows;
  const size_t dim = options.dim;
  Table table{MapArray<IndexEntry>(Table::EntryOf(rows), options.pages),
              MapArray<float>(rows * dim, options.pages)};
  std::vector<uint32_t> row_of_key(rows);
  std::iota(row_of_key.begin(), row_of_key.end(), 0U);
  std::shuffle(row_of_key.begin(), row_of_key.end(), std::mt19937_64(1));
  for (size_t key = 0; key < rows; ++key) table.index[Table::EntryOf(key)].row = row_of_key[key];
  for (size_t row = 0; row < rows; ++row) {
    std::fill_n(&table.values[row * dim], dim, static_cast<float>(row));
  }
  return table;
}

template <size_t kDim>
void Gather(const Table& table, std::span<const uint64_t> keys, float* out) {
  const IndexEntry* index = table.index.data();
  const float* values = table.values.data();
  for (size_t i = 0; i < keys.size(); ++i) {
    if (i + kHandlesAhead < keys.size()) {
      __builtin_prefetch(index + Table::EntryOf(keys[i + kHandlesAhead]));
    }
    if (i + kRowsAhead < keys.size()) {
      const float* row = values + size_t{index[Table::EntryOf(keys[i + kRowsAhead])].row} * kDim;
      for (size_t column = 0; column < kDim; column += kLineBytes / sizeof(float)) {
        __builtin_prefetch(row + column);
      }
    }
    const float* row = values + size_t{index[Table::EntryOf(keys[i])].row} * kDim;
    std::memcpy(out + i * kDim, row, kDim * sizeof(float));
  }
}

using GatherFunction = void (*)(const Table&, std::span<const uint64_t>, float*);

GatherFunction GatherOf(size_t dim) {
  if (dim == 16) return Gather<16>;
  if (dim == 64) return Gather<64>;
  Fail("DIM must be 16 or 64, got " + std::to_string(dim));
}

// Every thread gathers its part of each batch; returns the seconds of every step after the warm
// ones.
std::vector<double> Run(const Options& options, const Table& table,
                        std::span<const uint64_t> keys) {
  const GatherFunction gather = GatherOf(options.dim);
  const size_t batches = keys.size() / options.batch_keys;
  const std::span<float> out = MapArray<float>(options.batch_keys * options.dim, options.pages);
  std::barrier step_line(static_cast<std::ptrdiff_t>(options.threads));
  std::vector<double> step_s;
  const auto work = [&](size_t thread) {
    const size_t begin = options.batch_keys * thread / options.threads;
    const size_t end = options.batch_keys * (thread + 1) / options.threads;
    for (size_t step = 0; step < kWarmSteps + options.steps; ++step) {
      step_line.arrive_and_wait();
      const auto start = std::chrono::steady_clock::now();
      const auto part = keys.subspan(step % batches * options.batch_keys + begin, end - begin);
      gather(table, part, &out[begin * options.dim]);
      step_line.arrive_and_wait();
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      if (thread == 0 && step >= kWarmSteps) step_s.push_back(elapsed.count());
    }
  };
  std::vector<std::thread> threads;
  for (size_t thread = 1; thread < options.threads; ++thread) threads.emplace_back(work, thread);
  work(0);
  for (std::thread& thread : threads) thread.join();
  return step_s;
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = ParseOptions({argv, static_cast<size_t>(argc)});
  const std::vector<uint64_t> keys = ReadKeys(options);
  const Table table = MakeTable(options);
  const double cpu_before_s = CpuSeconds();
  std::vector<double> step_s = Run(options, table, keys);
  const double cpu_s = CpuSeconds() - cpu_before_s;
  std::sort(step_s.begin(), step_s.end());
  const auto batch = static_cast<double>(options.batch_keys);
  const auto keys_done = batch * static_cast<double>(kWarmSteps + options.steps);
  double load1 = 0;
  (void)getloadavg(&load1, 1);
  std::printf(
      "{\"peer\": \"limit\", \"metric\": \"gather_rows_per_s\", \"value\": %.2f, \"unit\": "
      "\"rows/s\", "
      "\"workload\": \"gather rows=%zu dim=%zu batch=%zu threads=%zu\", \"pages\": \"%s\", "
      "\"best\": %.1f, \"steps\": %zu, \"cpu_us_per_row\": %.4f, \"load1\": %.2f}\n",
      batch / step_s[step_s.size() / 2], options.rows, options.dim, options.batch_keys,
      options.threads, options.pages == Pages::kHuge ? "huge" : "small", batch / step_s.front(),
      step_s.size(), cpu_s / keys_done * 1e6, load1);
  return 0;
}
