#include "base/thread_pool.h"

#include <algorithm>

namespace embery {

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { WorkerLoop(); });
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Drain(Job& job) {
  // Relaxed: the counter only hands out numbers; the mutex orders what the tasks write.
  for (size_t i = job.next.fetch_add(1, std::memory_order_relaxed); i < job.count;
       i = job.next.fetch_add(1, std::memory_order_relaxed)) {
    (*job.task)(i);
  }
}

void ThreadPool::Run(size_t count,
                     const std::function<void(size_t)>& task) NO_THREAD_SAFETY_ANALYSIS {
  if (workers_.empty() || count <= 1) {
    for (size_t i = 0; i < count; ++i) task(i);
    return;
  }
  Job job{.task = &task, .count = count};
  {
    MutexLock lock(mutex_);
    jobs_.push_back(&job);
  }
  for (size_t i = 0; i < std::min(count - 1, workers_.size()); ++i) wake_.notify_one();
  Drain(job);
  std::unique_lock lock(mutex_.native());
  jobs_.remove(&job);
  idle_.wait(lock, [&job] { return job.helpers == 0; });
}

void ThreadPool::WorkerLoop() NO_THREAD_SAFETY_ANALYSIS {
  std::unique_lock lock(mutex_.native());
  while (true) {
    wake_.wait(lock, [this]() NO_THREAD_SAFETY_ANALYSIS { return closing_ || !jobs_.empty(); });
    if (closing_) return;
    Job& job = *jobs_.front();
    ++job.helpers;
    lock.unlock();
    Drain(job);
    lock.lock();
    // All its numbers are handed out: nobody else needs to find it.
    jobs_.remove(&job);
    if (--job.helpers == 0) idle_.notify_all();
  }
}

}  // namespace embery
