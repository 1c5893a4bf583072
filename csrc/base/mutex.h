// Locks that clang's thread-safety analysis understands.
//
// Thread-safety: that is what they are for. Ownership: a guard holds its lock until it is
// destroyed.
#pragma once

#include <mutex>
#include <shared_mutex>

#if defined(__clang__)
#define EMBERY_ANNOTATION(x) __attribute__((x))
#else
#define EMBERY_ANNOTATION(x)
#endif
#define CAPABILITY(x) EMBERY_ANNOTATION(capability(x))
#define SCOPED_CAPABILITY EMBERY_ANNOTATION(scoped_lockable)
#define GUARDED_BY(x) EMBERY_ANNOTATION(guarded_by(x))
#define REQUIRES(...) EMBERY_ANNOTATION(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) EMBERY_ANNOTATION(requires_shared_capability(__VA_ARGS__))
#define ACQUIRE(...) EMBERY_ANNOTATION(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) EMBERY_ANNOTATION(acquire_shared_capability(__VA_ARGS__))
#define RELEASE(...) EMBERY_ANNOTATION(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) EMBERY_ANNOTATION(release_shared_capability(__VA_ARGS__))
#define RELEASE_GENERIC(...) EMBERY_ANNOTATION(release_generic_capability(__VA_ARGS__))
#define EXCLUDES(...) EMBERY_ANNOTATION(locks_excluded(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS EMBERY_ANNOTATION(no_thread_safety_analysis)

namespace embery {

class CAPABILITY("mutex") Mutex {
 public:
  void Lock() ACQUIRE() { mutex_.lock(); }
  void Unlock() RELEASE() { mutex_.unlock(); }
  std::mutex& native() { return mutex_; }

 private:
  std::mutex mutex_;
};

class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

class CAPABILITY("mutex") SharedMutex {
 public:
  void Lock() ACQUIRE() { mutex_.lock(); }
  void Unlock() RELEASE() { mutex_.unlock(); }
  void LockShared() ACQUIRE_SHARED() { mutex_.lock_shared(); }
  void UnlockShared() RELEASE_SHARED() { mutex_.unlock_shared(); }

 private:
  std::shared_mutex mutex_;
};

class SCOPED_CAPABILITY WriterLock {
 public:
  explicit WriterLock(SharedMutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~WriterLock() RELEASE() { mutex_.Unlock(); }
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;

 private:
  SharedMutex& mutex_;
};

class SCOPED_CAPABILITY ReaderLock {
 public:
  explicit ReaderLock(SharedMutex& mutex) ACQUIRE_SHARED(mutex) : mutex_(mutex) {
    mutex_.LockShared();
  }
  ~ReaderLock() RELEASE_GENERIC() { mutex_.UnlockShared(); }
  ReaderLock(const ReaderLock&) = delete;
  ReaderLock& operator=(const ReaderLock&) = delete;

 private:
  SharedMutex& mutex_;
};

}  // namespace embery
