// The index against std::unordered_map, under kind and unkind tags.
#include "table/index.h"

#include <initializer_list>
#include <limits>
#include <random>
#include <unordered_map>
#include <vector>

#include "base/testing.h"

namespace embery {
namespace {

using Random = std::mt19937_64;

// An index with the keys of its handles, as records would hold them, and the map it has to equal. A
// key is a tag in its upper half, and what tells keys of one tag apart in its lower.
class CheckedIndex {
 public:
  explicit CheckedIndex(double stagger) : index_(segments_, stagger) {}

  static uint32_t TagOfKey(uint64_t key) { return static_cast<uint32_t>(key >> 32); }

  Index& index() { return index_; }
  size_t size() const { return expected_.size(); }
  bool Contains(uint64_t key) const { return expected_.contains(key); }

  void Insert(uint64_t key) {
    Handle handle = static_cast<Handle>(keys_.size());
    if (free_.empty()) {
      keys_.push_back(key);
    } else {
      // Handles are used again at once, as a pool does: old entries must not come back to life.
      handle = free_.back();
      free_.pop_back();
      keys_[handle] = key;
    }
    CHECK_TRUE(index_.Reserve(1));
    index_.Insert(TagOfKey(key), handle);
    place_[key] = members_.size();
    members_.push_back(key);
    expected_[key] = handle;
  }

  void Erase(uint64_t key) {
    const Handle handle = expected_.at(key);
    index_.Erase(TagOfKey(key), handle);
    expected_.erase(key);
    members_[place_.at(key)] = members_.back();
    place_[members_.back()] = place_.at(key);
    members_.pop_back();
    place_.erase(key);
    free_.push_back(handle);
  }

  uint64_t AnyMember(Random& random) const { return members_[random() % members_.size()]; }

  Handle Find(uint64_t key) const {
    return index_.Find(TagOfKey(key), [&](Handle handle) { return keys_[handle] == key; });
  }
  void CheckFind(uint64_t key) const {
    const auto found = expected_.find(key);
    CHECK_EQ(Find(key), found == expected_.end() ? kNoHandle : found->second);
  }

  void CheckAll() const {
    CHECK_EQ(index_.size(), expected_.size());
    for (const auto& [key, handle] : expected_) CHECK_EQ(Find(key), handle);
    size_t visited = 0;
    index_.ForEach([&](uint32_t tag, Handle handle) {
      ++visited;
      CHECK_EQ(tag, TagOfKey(keys_[handle]));
      CHECK_TRUE(expected_.contains(keys_[handle]));
    });
    CHECK_EQ(visited, expected_.size());
    for (const uint64_t key : members_) {
      const uint32_t tag = TagOfKey(key);
      for (const Handle guess : {index_.Guess(tag), Index::GuessIn(*index_.HomeBucket(tag), tag)}) {
        if (guess == kNoHandle) continue;
        CHECK_EQ(TagOfKey(keys_[guess]), tag);
        CHECK_TRUE(expected_.contains(keys_[guess]));
      }
    }
  }

 private:
  SegmentPool segments_;
  Index index_;
  std::vector<uint64_t> keys_ = {0};  // By handle; handle 0 is none.
  std::vector<Handle> free_;
  std::unordered_map<uint64_t, Handle> expected_;
  std::vector<uint64_t> members_;
  std::unordered_map<uint64_t, size_t> place_;
};

// ---- keys ---------------------------------------------------------------------------------------

constexpr uint32_t kTagMax = std::numeric_limits<uint32_t>::max();

struct Pattern {
  const char* name;
  size_t keys_max;  // Beyond, an unkind pattern takes too long: its searches are linear.
  uint32_t (*tag)(Random& random);
};

constexpr Pattern kPatterns[] = {
    {"spread evenly", 50000, [](Random& random) { return static_cast<uint32_t>(random()); }},
    {"all in one bucket", 1500,
     [](Random& random) { return 0x40000000u + static_cast<uint32_t>(random() % 16); }},
    {"one tag", 1500, [](Random&) { return 0x9e3779b9u; }},
    {"at the end, going round", 1500,
     [](Random& random) { return kTagMax - static_cast<uint32_t>(random() % 64); }},
    {"at both ends", 1500,
     [](Random& random) { return random() % 2 == 0 ? kTagMax : uint32_t{0}; }},
    {"a crowd among many", 30000,
     [](Random& random) {
       return random() % 64 == 0 ? kTagMax - 3 : static_cast<uint32_t>(random());
     }},
};

uint64_t MakeKey(const Pattern& pattern, Random& random) {
  return uint64_t{pattern.tag(random)} << 32 | random() % 4096;
}

uint64_t AbsentKey(const CheckedIndex& checked, const Pattern& pattern, Random& random) {
  while (true) {
    const uint64_t key = MakeKey(pattern, random);
    if (!checked.Contains(key)) return key;
  }
}

// Grows to `keys`, replaces most of them several times, and shrinks to nothing, while entries move
// at `pace` an operation.
void LiveAndDie(const Pattern& pattern, size_t keys, size_t pace, Random& random) {
  CheckedIndex checked(static_cast<double>(random() % 64) / 64);
  const auto step = [&](bool insert) {
    checked.index().Migrate(pace);
    if (insert) {
      checked.Insert(AbsentKey(checked, pattern, random));
    } else {
      checked.Erase(checked.AnyMember(random));
    }
    checked.CheckFind(MakeKey(pattern, random));
    if (checked.size() > 0) checked.CheckFind(checked.AnyMember(random));
  };
  // Two steps forward, one back: growth is under way while keys are deleted.
  while (checked.size() < keys) step(checked.size() == 0 || random() % 3 != 0);
  checked.CheckAll();
  for (size_t i = 0; i < 2 * keys; ++i) step(i % 2 == 0);
  checked.CheckAll();
  while (checked.size() > 0) step(random() % 4 == 0);
  checked.CheckAll();
}

TEST(AgreesWithANaiveMapUnderAnyTags) {
  Random random(1);
  for (const Pattern& pattern : kPatterns) {
    for (const size_t keys : std::initializer_list<size_t>{1, 7, 8, 9, 100, 1000, 50000}) {
      if (keys > pattern.keys_max) continue;
      const int failures = testing::Failures().load();
      LiveAndDie(pattern, keys, keys % 2 == 0 ? 3 : 0, random);
      if (testing::Failures().load() != failures) {
        std::fprintf(stderr, "tags %s, %zu keys\n", pattern.name, keys);
      }
    }
    LiveAndDie(pattern, pattern.keys_max, 5, random);
  }
}

TEST(AnEmptyIndexFindsNothing) {
  SegmentPool segments;
  const Index index(segments, 0.5);
  CHECK_EQ(index.Find(7, [](Handle) { return true; }), kNoHandle);
  CHECK_EQ(index.Guess(7), kNoHandle);
  CHECK_EQ(index.size(), size_t{0});
  CHECK_EQ(Index::GuessIn(*index.HomeBucket(7), 7), kNoHandle);
  // An empty entry holds tag 0.
  CHECK_EQ(Index::GuessIn(*index.HomeBucket(0), 0), kNoHandle);
}

TEST(AClearedIndexIsEmpty) {
  CheckedIndex checked(0.0);
  for (uint64_t key = 0; key < 1000; ++key) checked.Insert(key << 44);
  checked.index().Clear();
  CHECK_EQ(checked.index().size(), size_t{0});
  CHECK_EQ(checked.Find(uint64_t{3} << 44), kNoHandle);
}

TEST(RoomThatWasReservedIsThere) {
  Random random(2);
  for (const size_t count : std::initializer_list<size_t>{1, 5, 100, 3000, 40000}) {
    CheckedIndex checked(0.7);
    for (int i = 0; i < 20; ++i) checked.Insert(random());
    CHECK_TRUE(checked.index().Reserve(count));
    const size_t bytes = checked.index().bytes();
    for (size_t i = 0; i < count; ++i) checked.Insert(random());
    CHECK_EQ(checked.index().bytes(), bytes);
    checked.CheckAll();
  }
}

// Searches for absent keys have to end in an index that is as full as it gets.
TEST(SearchesEndInAFullIndex) {
  Random random(3);
  for (const double stagger : {0.0, 0.3, 0.9}) {
    CheckedIndex checked(stagger);
    for (size_t size = 0; size < 4000; ++size) {
      checked.Insert(random());
      for (int i = 0; i < 3; ++i) checked.CheckFind(random());
    }
    checked.CheckAll();
  }
}

// Deleted entries must not pile up: neither room nor the length of searches may grow with the
// number of replacements.
TEST(ReplacingKeysForLongKeepsTheSize) {
  Random random(4);
  for (const size_t keys : std::initializer_list<size_t>{8, 1000}) {
    CheckedIndex checked(0.5);
    for (size_t i = 0; i < keys; ++i) checked.Insert(random());
    const size_t bytes = checked.index().bytes();
    for (size_t i = 0; i < 200 * keys; ++i) {
      checked.Erase(checked.AnyMember(random));
      checked.Insert(random());
    }
    CHECK_TRUE(checked.index().bytes() <= 2 * bytes);
    checked.CheckAll();
  }
}

// ---- growth a piece at a time -------------------------------------------------------------------

constexpr size_t kManyKeys = 200000;

// Inserts until a growth begins, which shows as two arrays at once, and returns the bytes before.
size_t InsertUntilGrowth(CheckedIndex& checked, Random& random) {
  while (true) {
    const size_t bytes = checked.index().bytes();
    checked.Insert(random());
    if (checked.index().bytes() > bytes) return bytes;
  }
}

TEST(AMoveOfEntriesIsBounded) {
  Random random(5);
  CheckedIndex checked(0.4);
  for (size_t i = 0; i < kManyKeys; ++i) checked.Insert(random());
  checked.index().Migrate(SIZE_MAX);
  (void)InsertUntilGrowth(checked, random);
  const size_t both = checked.index().bytes();
  const size_t entries = checked.size();
  constexpr size_t kPace = 1000;
  size_t moves = 0;
  while (checked.index().bytes() == both) {
    checked.index().Migrate(kPace);
    if (++moves % 16 == 0) checked.CheckFind(checked.AnyMember(random));
    if (moves > 2 * entries / kPace) break;
  }
  // A move ends with the bucket in which it reaches its pace.
  CHECK_TRUE(moves >= (entries - 1) / (kPace + Index::kEntriesPerBucket));
  CHECK_TRUE(moves <= entries / kPace + 1);
  checked.CheckAll();
}

TEST(AGrowthEndsBeforeTheNextBegins) {
  // An array that is full enough to grow has two entries in 20 bytes; with the array before it, the
  // index would take 16 bytes an entry and more.
  constexpr size_t kBytesPerEntryMax = 12;
  Random random(6);
  CheckedIndex checked(0.1);
  size_t growths = 0;
  while (checked.size() < kManyKeys) {
    checked.index().Migrate(8);
    const size_t before = checked.index().bytes();
    const size_t entries = checked.size();
    checked.Insert(random());
    if (entries < 1000 || checked.index().bytes() <= before) continue;
    CHECK_TRUE(before <= kBytesPerEntryMax * entries);
    ++growths;
  }
  CHECK_TRUE(growths > 10);
}

TEST(IndexesOfDifferentStaggerGrowAtDifferentSizes) {
  std::vector<size_t> sizes;
  for (const double stagger : {0.0, 0.25, 0.5, 0.75}) {
    Random random(7);
    CheckedIndex checked(stagger);
    for (size_t i = 0; i < kManyKeys; ++i) checked.Insert(random());
    (void)InsertUntilGrowth(checked, random);
    for (const size_t size : sizes) CHECK_TRUE(size != checked.size());
    sizes.push_back(checked.size());
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
