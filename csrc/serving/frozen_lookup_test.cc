#include "serving/frozen_lookup.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <numeric>
#include <random>
#include <string>

#include "base/testing.h"
#include "batch/pooling.h"
#include "optim/row_codec.h"

namespace embery {
namespace {

using Rows = std::map<uint64_t, std::vector<float>>;
constexpr uint64_t kSalt = 0x9ae16a3b2f90404f;

const Kernels& Auto() { return *FindKernels("auto").value(); }

// The bytes of a table's file, written down from docs/formats/bundle.md.
std::string FileOf(const Rows& rows, uint32_t dim, ValueType type) {
  FrozenHeader header{.magic = {'E', 'M', 'B', 'E', 'R', 'Y', 'T', 'B'},
                      .version = 1,
                      .value_type = static_cast<uint32_t>(type),
                      .dim = dim,
                      .row_bytes = static_cast<uint32_t>(ValueBytes(type, dim)),
                      .rows = rows.size(),
                      .buckets = std::max<uint64_t>(1, (rows.size() + 3) / 4),
                      .salt = kSalt};
  std::vector<std::vector<uint64_t>> buckets(header.buckets);
  for (const auto& [key, values] : rows) {
    buckets[(MixKey(kSalt, key).bits >> 32) * header.buckets >> 32].push_back(key);
  }
  std::string file(reinterpret_cast<const char*>(&header), sizeof(header));
  const auto append = [&file](const auto& value) {
    file.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  const auto pad = [&file] { file.resize((file.size() + 4095) / 4096 * 4096); };
  pad();
  uint32_t start = 0;
  append(start);
  for (const auto& bucket : buckets) append(start += static_cast<uint32_t>(bucket.size()));
  pad();
  for (const auto& bucket : buckets) {
    for (const uint64_t key : bucket) append(key);
  }
  pad();
  std::vector<std::byte> stored(header.row_bytes);
  for (const auto& bucket : buckets) {
    for (const uint64_t key : bucket) {
      EncodeRow(Auto(), type, rows.at(key).data(), dim, stored.data());
      file.append(reinterpret_cast<const char*>(stored.data()), stored.size());
    }
  }
  return file;
}

// A file that is gone at the end of the scope.
class File {
 public:
  explicit File(const std::string& bytes)
      : path_(std::filesystem::temp_directory_path() /
              ("embery_frozen_" + std::to_string(getpid()) + "_" + std::to_string(count_++))) {
    std::ofstream(path_, std::ios::binary).write(bytes.data(), std::ssize(bytes));
  }
  ~File() { std::filesystem::remove(path_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  std::string path() const { return path_.string(); }

 private:
  static inline int count_ = 0;
  const std::filesystem::path path_;
};

Rows RandomRows(size_t count, uint32_t dim, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Rows rows;
  while (rows.size() < count) {
    std::vector<float>& values = rows[random()];
    for (uint32_t d = 0; d < dim; ++d) values.push_back(normal(random));
  }
  return rows;
}

// Half of the keys are in `rows`.
std::vector<uint64_t> SomeKeys(const Rows& rows, size_t count, std::mt19937_64& random) {
  std::vector<uint64_t> there;
  for (const auto& [key, values] : rows) there.push_back(key);
  std::vector<uint64_t> keys(count);
  for (uint64_t& key : keys) {
    const uint64_t draw = random();
    key = draw % 2 == 0 && !there.empty() ? there[draw / 2 % there.size()] : draw;
  }
  return keys;
}

std::shared_ptr<const FrozenTable> Open(const File& file) {
  auto table = FrozenTable::Open(file.path());
  CHECK_EQ(table.status().message(), std::string());
  return std::move(table).value();
}

TEST(EveryKeyIsFoundAndEveryOtherIsMissed) {
  std::mt19937_64 random(12345);
  for (const ValueType type :
       {ValueType::kFloat32, ValueType::kFloat16, ValueType::kBfloat16, ValueType::kInt8}) {
    for (const size_t count : {size_t{0}, size_t{1}, size_t{5}, size_t{3000}}) {
      const uint32_t dim = 7;
      const Rows rows = RandomRows(count, dim, count);
      const File file(FileOf(rows, dim, type));
      const auto lookup = FrozenLookup::Make({Open(file)}, {{0, Pooling::kSum}});
      REQUIRE_TRUE(lookup.ok());
      std::vector<uint64_t> keys;
      for (const auto& [key, values] : rows) keys.push_back(key);
      std::vector<float> out(count * dim);
      CHECK_EQ(lookup.value()->Gather(0, keys, out.data()), count);
      std::vector<std::byte> stored(ValueBytes(type, dim));
      std::vector<float> expected(dim);
      for (size_t i = 0; i < count; ++i) {
        EncodeRow(Auto(), type, rows.at(keys[i]).data(), dim, stored.data());
        DecodeRows(Auto(), type, stored.data(), 1, dim, expected.data());
        CHECK_TRUE(std::equal(expected.begin(), expected.end(), &out[i * dim]));
      }
      std::vector<uint64_t> others(500);
      std::generate(others.begin(), others.end(), random);
      std::vector<float> zeros(others.size() * dim, 1.0f);
      CHECK_EQ(lookup.value()->Gather(0, others, zeros.data()), 0U);
      CHECK_TRUE(std::all_of(zeros.begin(), zeros.end(), [](float x) { return x == 0.0f; }));
    }
  }
}

// What training computes for the same rows.
std::vector<float> PooledInTraining(const std::vector<const Rows*>& tables,
                                    const std::vector<FrozenFeature>& features,
                                    const std::vector<uint32_t>& dims, const FrozenBatch& batch) {
  auto layout = std::make_shared<BatchLayout>();
  layout->table_dims = dims;
  std::vector<uint32_t> positions(features.size());
  std::iota(positions.begin(), positions.end(), 0U);
  for (size_t f = 0; f < features.size(); ++f) {
    layout->features.push_back({std::to_string(f), features[f].table, features[f].pooling});
  }
  CHECK_TRUE(layout->Finish().ok());
  ThreadPool pool(1);
  Planner planner(layout, &pool);
  const auto plan = planner.Plan({.values = batch.keys,
                                  .lengths = batch.lengths,
                                  .weights = batch.weights,
                                  .positions = positions,
                                  .samples = batch.samples});
  CHECK_TRUE(plan.ok());
  std::vector<float> flat(plan.value()->FloatCount());
  float* to = flat.data();
  for (size_t t = 0; t < tables.size(); ++t) {
    for (const uint64_t key : plan.value()->keys[t]) {
      const auto row = tables[t]->find(key);
      if (row != tables[t]->end()) std::copy(row->second.begin(), row->second.end(), to);
      to += dims[t];
    }
  }
  std::vector<float> out(batch.samples * layout->columns);
  PoolForward(*plan.value(), flat.data(), out.data(), pool);
  return out;
}

TEST(PoolingHasTheBitsOfTraining) {
  std::mt19937_64 random(2);
  const std::vector<uint32_t> dims = {16, 5};
  const Rows first = RandomRows(400, dims[0], 3);
  const Rows second = RandomRows(100, dims[1], 4);
  const File files[] = {File(FileOf(first, dims[0], ValueType::kFloat32)),
                        File(FileOf(second, dims[1], ValueType::kFloat32))};
  const std::vector<FrozenFeature> features = {
      {0, Pooling::kSum}, {1, Pooling::kMean}, {0, Pooling::kSqrtN}, {1, Pooling::kSum}};
  const auto lookup = FrozenLookup::Make({Open(files[0]), Open(files[1])}, features);
  REQUIRE_TRUE(lookup.ok());
  for (const size_t samples : {size_t{1}, size_t{3}, size_t{70}}) {
    for (const bool weighted : {false, true}) {
      std::vector<uint64_t> keys;
      std::vector<int64_t> lengths;
      for (const FrozenFeature& feature : features) {
        for (size_t b = 0; b < samples; ++b) {
          lengths.push_back(static_cast<int64_t>(random() % 4));
          const auto some = SomeKeys(feature.table == 0 ? first : second,
                                     static_cast<size_t>(lengths.back()), random);
          keys.insert(keys.end(), some.begin(), some.end());
        }
      }
      std::vector<float> weights(weighted ? keys.size() : 0);
      for (float& weight : weights) weight = static_cast<float>(random() % 100) / 7.0f - 5.0f;
      const FrozenBatch batch{
          .keys = keys, .lengths = lengths, .weights = weights, .samples = samples};
      const auto expected = PooledInTraining({&first, &second}, features, dims, batch);
      std::vector<float> out(samples * lookup.value()->columns(), -1.0f);
      REQUIRE_TRUE(lookup.value()->Pool(batch, out.data()).ok());
      CHECK_TRUE(std::memcmp(expected.data(), out.data(), out.size() * sizeof(float)) == 0);
    }
  }
}

TEST(LengthsThatDoNotFitAreRefusedBeforeAnythingIsWritten) {
  const Rows rows = RandomRows(10, 4, 5);
  const File file(FileOf(rows, 4, ValueType::kFloat32));
  const auto lookup = FrozenLookup::Make({Open(file)}, {{0, Pooling::kSum}});
  REQUIRE_TRUE(lookup.ok());
  const std::array<uint64_t, 3> keys = {1, 2, 3};
  const std::array<float, 2> weights = {1, 1};
  std::vector<float> out(8, 5.0f);
  const std::vector<std::vector<int64_t>> wrong = {{3}, {1, 1}, {2, 2}, {4, -1}, {-1, 4}};
  for (const auto& lengths : wrong) {
    const FrozenBatch batch{.keys = keys, .lengths = lengths, .weights = {}, .samples = 2};
    CHECK_TRUE(!lookup.value()->Pool(batch, out.data()).ok());
  }
  const std::array<int64_t, 2> right = {1, 2};
  const FrozenBatch batch{.keys = keys, .lengths = right, .weights = weights, .samples = 2};
  CHECK_TRUE(!lookup.value()->Pool(batch, out.data()).ok());
  CHECK_TRUE(std::all_of(out.begin(), out.end(), [](float x) { return x == 5.0f; }));
  CHECK_TRUE(!FrozenLookup::Make({Open(file)}, {{1, Pooling::kSum}}).ok());
}

TEST(AFileThatIsCutShortIsRefused) {
  const std::string whole = FileOf(RandomRows(50, 4, 6), 4, ValueType::kInt8);
  for (const size_t bytes :
       {size_t{0}, size_t{20}, size_t{4095}, size_t{4096}, size_t{9000}, whole.size() - 1}) {
    const File file(whole.substr(0, bytes));
    const auto table = FrozenTable::Open(file.path());
    CHECK_TRUE(table.status().code() == StatusCode::kCheckpointCorrupt);
    CHECK_TRUE(table.status().message().find(file.path()) == 0);
  }
  const File longer(whole + "x");
  CHECK_TRUE(FrozenTable::Open(longer.path()).status().code() == StatusCode::kCheckpointCorrupt);
  CHECK_TRUE(FrozenTable::Open("/nowhere").status().code() == StatusCode::kUnavailable);
}

// A damaged header is refused, or says another salt or type; damaged arrays give wrong rows at
// worst. Under the sanitizers this shows that no read leaves the mapping.
TEST(WhateverBytesTheFileHoldsNoReadLeavesIt) {
  std::mt19937_64 random(7);
  const Rows rows = RandomRows(300, 3, 8);
  const std::string whole = FileOf(rows, 3, ValueType::kFloat32);
  const uint64_t rounds = testing::OperationsOfTest(300, 100'000);
  for (uint64_t round = 0; round < rounds; ++round) {
    std::string bytes = whole;
    // The header, then the index, then anything.
    const size_t ends[] = {48, 4096 + 4 * 76, bytes.size()};
    const size_t begins[] = {0, 4096, 0};
    for (size_t damage = 0; damage < 1 + random() % 8; ++damage) {
      const size_t begin = begins[round % 3];
      bytes[begin + random() % (ends[round % 3] - begin)] = static_cast<char>(random());
    }
    const File file(bytes);
    const auto table = FrozenTable::Open(file.path());
    if (!table.ok()) continue;
    const auto lookup = FrozenLookup::Make({table.value()}, {{0, Pooling::kSum}});
    REQUIRE_TRUE(lookup.ok());
    const auto keys = SomeKeys(rows, 200, random);
    std::vector<float> out(keys.size() * table.value()->dim());
    CHECK_TRUE(lookup.value()->Gather(0, keys, out.data()) <= keys.size());
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
