// Locks that clang's thread-safety analysis understands.
//
// Thread-safety: that is what they are for. Ownership: a guard holds its lock until it is
// destroyed.
#pragma once

#include <pthread.h>

#include <mutex>

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
#define RETURN_CAPABILITY(x) EMBERY_ANNOTATION(lock_returned(x))
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

// Many readers or one writer. A waiting writer goes before readers that come later, so that a
// stream of them cannot keep it out; hence a thread must not take the lock shared twice, and one
// that takes several must take them in one order that all threads keep.
class CAPABILITY("mutex") SharedMutex {
 public:
  SharedMutex() {
    pthread_rwlockattr_t attributes;
    pthread_rwlockattr_init(&attributes);
#if defined(__GLIBC__)
    pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
#endif
    pthread_rwlock_init(&lock_, &attributes);
    pthread_rwlockattr_destroy(&attributes);
  }
  ~SharedMutex() { pthread_rwlock_destroy(&lock_); }
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;

  void Lock() ACQUIRE() { pthread_rwlock_wrlock(&lock_); }
  void Unlock() RELEASE() { pthread_rwlock_unlock(&lock_); }
  void LockShared() ACQUIRE_SHARED() { pthread_rwlock_rdlock(&lock_); }
  void UnlockShared() RELEASE_SHARED() { pthread_rwlock_unlock(&lock_); }

 private:
  pthread_rwlock_t lock_;
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
