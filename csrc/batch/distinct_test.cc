#include "batch/distinct.h"

#include <initializer_list>
#include <random>
#include <unordered_map>

#include "base/testing.h"

namespace embery {
namespace {

struct Found {
  std::vector<uint64_t> distinct;
  std::vector<RowIndex> inverse;
};

Found Find(DistinctFinder& finder, const std::vector<uint64_t>& keys) {
  Found found;
  found.inverse.resize(keys.size());
  finder.Begin(keys.size());
  finder.Add(keys, found.distinct, found.inverse.data());
  return found;
}

Found FindNaively(const std::vector<uint64_t>& keys) {
  Found found;
  std::unordered_map<uint64_t, RowIndex> seen;
  for (uint64_t key : keys) {
    const auto [at, fresh] = seen.try_emplace(key, static_cast<RowIndex>(found.distinct.size()));
    if (fresh) found.distinct.push_back(key);
    found.inverse.push_back(at->second);
  }
  return found;
}

TEST(KeysComeInOrderOfFirstAppearance) {
  DistinctFinder finder;
  const Found found = Find(finder, {7, 3, 7, 7, 9, 3});
  CHECK_TRUE((found.distinct == std::vector<uint64_t>{7, 3, 9}));
  CHECK_TRUE((found.inverse == std::vector<RowIndex>{0, 1, 0, 0, 2, 1}));
}

TEST(EveryKeyIsLegal) {
  DistinctFinder finder;
  const uint64_t last = ~uint64_t{0};
  const Found found = Find(finder, {0, last, 0, 1, last, uint64_t{1} << 63});
  CHECK_TRUE((found.distinct == std::vector<uint64_t>{0, last, 1, uint64_t{1} << 63}));
  CHECK_TRUE((found.inverse == std::vector<RowIndex>{0, 1, 0, 2, 1, 3}));
}

TEST(ASetIsEmptyAtItsBeginning) {
  DistinctFinder finder;
  (void)Find(finder, {1, 2, 3});
  CHECK_TRUE((Find(finder, {3, 1}).distinct == std::vector<uint64_t>{3, 1}));
  CHECK_TRUE(Find(finder, {}).distinct.empty());
}

TEST(SeveralAddsAreOneSet) {
  DistinctFinder finder;
  std::vector<uint64_t> distinct;
  std::vector<RowIndex> inverse(4);
  finder.Begin(4);
  finder.Add(std::vector<uint64_t>{5, 6}, distinct, inverse.data());
  finder.Add(std::vector<uint64_t>{6, 8}, distinct, inverse.data() + 2);
  CHECK_TRUE((distinct == std::vector<uint64_t>{5, 6, 8}));
  CHECK_TRUE((inverse == std::vector<RowIndex>{0, 1, 1, 2}));
}

TEST(AgreesWithANaiveMapOnSetsOfManySizes) {
  std::mt19937_64 random(11);
  DistinctFinder finder;
  for (size_t size : std::initializer_list<size_t>{1, 15, 16, 17, 100, 5000, 33, 100000, 64}) {
    for (uint64_t range : {uint64_t{2}, uint64_t{size} + 1, ~uint64_t{0}}) {
      std::vector<uint64_t> keys(size);
      for (uint64_t& key : keys) key = random() % range;
      const Found found = Find(finder, keys);
      const Found expected = FindNaively(keys);
      CHECK_TRUE(found.distinct == expected.distinct);
      CHECK_TRUE(found.inverse == expected.inverse);
    }
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
