// A fixed set of threads that share the tasks of a job; the calling thread takes part.
//
// Thread-safety: Run may be called from several threads at once; their jobs share the workers.
// Ownership: the pool joins its threads when destroyed, which must not happen during a Run.
// Invariants: a job's tasks are handed out in order, each exactly once; Run returns after the last
// one ended, and everything the tasks wrote is visible to its caller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace embery {

class ThreadPool {
 public:
  // `threads` counts the caller: 1 means that Run works alone.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(i) for every i in [0, count); blocks until all have returned.
  void Run(size_t count, const std::function<void(size_t)>& task);

 private:
  struct Job {
    const std::function<void(size_t)>* task;
    size_t count;
    std::atomic<size_t> next{0};
    size_t helpers = 0;  // Guarded by the pool's mutex_.
  };

  void WorkerLoop();
  static void Drain(Job& job);

  Mutex mutex_;
  std::condition_variable wake_;  // A job was added, or the pool closes.
  std::condition_variable idle_;  // A helper left a job.
  std::list<Job*> jobs_ GUARDED_BY(mutex_);
  bool closing_ GUARDED_BY(mutex_) = false;
  std::vector<std::thread> workers_;
};

}  // namespace embery
