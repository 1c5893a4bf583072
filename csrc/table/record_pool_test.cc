#include "table/record_pool.h"

#include <cstring>
#include <set>
#include <thread>

#include "base/testing.h"
#include "table/record.h"

namespace embery {
namespace {

// From the smallest record to the largest: dim 4096 with two floats of state a value.
size_t LargestRecordBytes() {
  return RecordLayout(ValueType::kFloat32, OptimizerKind::kAdam, 4096).stride;
}

// A byte that tells records apart.
uint8_t Mark(Handle handle) { return static_cast<uint8_t>(handle * 131 + 7); }

bool IsMarked(const RecordPool& pool, Handle handle, size_t record_bytes) {
  const std::byte* record = pool.At(handle);
  const std::vector<std::byte> expected(record_bytes, std::byte{Mark(handle)});
  return std::memcmp(record, expected.data(), record_bytes) == 0;
}

TEST(RecordsDoNotOverlapNorMove) {
  for (const size_t record_bytes : {size_t{24}, size_t{84}, size_t{2048}, size_t{32764},
                                    size_t{32772}, size_t{65540}, LargestRecordBytes()}) {
    RecordSlabs slabs(record_bytes);
    RecordPool pool(slabs);
    std::vector<std::byte*> addresses;
    const Handle count = record_bytes > 10000 ? 50 : 3000;
    std::set<Handle> handles;
    for (Handle i = 0; i < count; ++i) {
      const Handle handle = pool.Allocate();
      REQUIRE_TRUE(handle != kNoHandle && handle != kHandleMax);
      CHECK_TRUE(handles.insert(handle).second);
      CHECK_EQ(reinterpret_cast<uintptr_t>(pool.At(handle)) % alignof(float), size_t{0});
      std::memset(pool.At(handle), Mark(handle), record_bytes);
      addresses.push_back(pool.At(handle));
    }
    size_t i = 0;
    for (const Handle handle : handles) {
      CHECK_TRUE(pool.At(handle) == addresses[i++]);
      CHECK_TRUE(IsMarked(pool, handle, record_bytes));
    }
  }
}

TEST(FreedRecordsAreUsedBeforeNewMemory) {
  RecordSlabs slabs(84);
  RecordPool pool(slabs);
  std::set<Handle> freed;
  std::vector<Handle> handles;
  for (int i = 0; i < 10000; ++i) handles.push_back(pool.Allocate());
  for (size_t i = 0; i < handles.size(); i += 2) {
    pool.Free(handles[i]);
    freed.insert(handles[i]);
  }
  const size_t bytes = pool.bytes();
  while (!freed.empty()) CHECK_EQ(freed.erase(pool.Allocate()), size_t{1});
  CHECK_TRUE(pool.bytes() <= bytes);
}

TEST(PoolsOfOneAllocatorDoNotOverlap) {
  constexpr size_t kRecordBytes = 132;
  constexpr size_t kThreads = 4;
  constexpr size_t kRecords = 5000;
  RecordSlabs slabs(kRecordBytes);
  std::vector<RecordPool> pools(kThreads, RecordPool(slabs));
  std::vector<std::vector<Handle>> handles(kThreads);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&pool = pools[t], &of_thread = handles[t]] {
      for (size_t i = 0; i < kRecords; ++i) {
        const Handle handle = pool.Allocate();
        std::memset(pool.At(handle), Mark(handle), kRecordBytes);
        of_thread.push_back(handle);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<Handle> all;
  for (size_t t = 0; t < kThreads; ++t) {
    for (const Handle handle : handles[t]) {
      CHECK_TRUE(all.insert(handle).second);
      CHECK_TRUE(IsMarked(pools[t], handle, kRecordBytes));
    }
  }
}

TEST(APoolTakesLittleMoreThanItsRecords) {
  constexpr size_t kRecordBytes = 84;
  RecordSlabs slabs(kRecordBytes);
  RecordPool pool(slabs);
  CHECK_EQ(pool.bytes(), size_t{0});
  for (int i = 0; i < 100000; ++i) CHECK_TRUE(pool.Allocate() != kNoHandle);
  CHECK_TRUE(pool.bytes() >= 100000 * kRecordBytes);
  CHECK_TRUE(pool.bytes() < 101000 * kRecordBytes);
}

TEST(MetadataOfARecordIsKeptApart) {
  std::byte data[RecordLayout::kValuesOffset] = {};
  Record record(data);
  record.SetKeyAndLsn(static_cast<uint32_t>(kLowMask), 5);
  record.SetTouched(0xfffffffe, 0xfffffffd);
  record.SetUpdates(0xfffffffc);
  CHECK_EQ(record.low(), kLowMask);
  CHECK_EQ(record.lsn(), Lsn{5});
  CHECK_EQ(record.step(), 0xfffffffeu);
  CHECK_EQ(record.time_s(), 0xfffffffdu);
  CHECK_EQ(record.updates(), 0xfffffffcu);
  record.SetKeyAndLsn(0, kLsnMax);
  CHECK_EQ(record.low(), 0u);
  CHECK_EQ(record.lsn(), kLsnMax);
  CHECK_EQ(record.step(), 0xfffffffeu);
  CHECK_EQ(record.updates(), 0xfffffffcu);
}

TEST(LayoutsAlignValuesAndState) {
  for (const uint32_t dim : {1u, 2u, 3u, 5u, 16u, 4095u}) {
    for (size_t type = 0; type < kValueTypes; ++type) {
      for (size_t kind = 0; kind < kOptimizerKinds; ++kind) {
        const RecordLayout layout(static_cast<ValueType>(type), static_cast<OptimizerKind>(kind),
                                  dim);
        CHECK_EQ(layout.state_offset % alignof(float), size_t{0});
        CHECK_EQ(layout.stride, RecordLayout::kValuesOffset + layout.value_bytes +
                                    layout.state_floats * sizeof(float));
      }
    }
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
