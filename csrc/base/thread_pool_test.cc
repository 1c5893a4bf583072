#include "base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <initializer_list>
#include <numeric>
#include <set>

#include "base/testing.h"

namespace embery {
namespace {

// Runs `count` tasks that each count themselves; true if all ran exactly once.
bool RunsEachOnce(ThreadPool& pool, size_t count) {
  // Not atomic on purpose: Run promises to order the tasks' writes before its return.
  std::vector<int> runs(count, 0);
  pool.Run(count, [&](size_t i) { ++runs[i]; });
  return std::all_of(runs.begin(), runs.end(), [](int ran) { return ran == 1; });
}

TEST(EachTaskRunsExactlyOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK_EQ(pool.threads(), threads);
    for (const size_t count : std::initializer_list<size_t>{0, 1, 2, 3, 7, 64, 1000})
      CHECK_TRUE(RunsEachOnce(pool, count));
  }
}

TEST(APoolIsUsedManyTimes) {
  ThreadPool pool(4);
  for (int round = 0; round < 3000; ++round) {
    CHECK_TRUE(RunsEachOnce(pool, static_cast<size_t>(round % 17)));
  }
}

TEST(TasksAreHandedOutInOrder) {
  ThreadPool pool(1);
  std::vector<size_t> order;
  pool.Run(100, [&](size_t i) { order.push_back(i); });
  std::vector<size_t> ascending(100);
  std::iota(ascending.begin(), ascending.end(), size_t{0});
  CHECK_TRUE(order == ascending);
}

TEST(TasksOfOneJobRunAtTheSameTime) {
  constexpr size_t kThreads = 3;
  ThreadPool pool(kThreads);
  // Every task waits for all: with fewer threads at work this would never end.
  std::atomic<size_t> arrived{0};
  std::vector<std::thread::id> ids(kThreads);
  pool.Run(kThreads, [&](size_t i) {
    ids[i] = std::this_thread::get_id();
    arrived.fetch_add(1);
    while (arrived.load() < kThreads) std::this_thread::yield();
  });
  CHECK_EQ(std::set<std::thread::id>(ids.begin(), ids.end()).size(), kThreads);
}

TEST(SeveralThreadsRunJobsAtOnce) {
  ThreadPool pool(3);
  std::atomic<int> failed{0};
  std::vector<std::thread> callers;
  for (size_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (size_t round = 0; round < 500; ++round) {
        failed += RunsEachOnce(pool, (round + 13 * caller) % 40) ? 0 : 1;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK_EQ(failed.load(), 0);
}

TEST(ATaskMayRunAJobOfItsOwn) {
  ThreadPool pool(3);
  std::atomic<size_t> ran{0};
  pool.Run(8, [&](size_t) { pool.Run(8, [&](size_t) { ran.fetch_add(1); }); });
  CHECK_EQ(ran.load(), size_t{64});
}

TEST(PoolsComeAndGo) {
  for (int round = 0; round < 100; ++round) {
    ThreadPool pool(4);
    if (round % 2 == 0) CHECK_TRUE(RunsEachOnce(pool, 8));
  }
}

}  // namespace
}  // namespace embery

EMBERY_TEST_MAIN()
